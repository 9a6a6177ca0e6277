"""A stateful Stripe over HTTP: API 2026-10-28.endive, its own virtual clock, signed webhooks. Imports nothing of the product."""
