"""What was lost, and what is given back: the outage controller."""
