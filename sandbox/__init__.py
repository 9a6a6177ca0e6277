"""What stands in for the outside world on one machine. Imports nothing of the product."""
