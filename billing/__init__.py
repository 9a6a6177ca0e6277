"""What was sold: plans, customers, subscriptions, invoices, and the mirror of them in Stripe."""
