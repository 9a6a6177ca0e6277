"""Stripe's events that wait, and those that a person has to see to."""
