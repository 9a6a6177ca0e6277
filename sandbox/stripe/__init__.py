"""A stateful Stripe over HTTP: API 2026-10-28.endive, a virtual clock, signed webhooks; nothing of the product."""
