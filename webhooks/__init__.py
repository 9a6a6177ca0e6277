"""What others tell us, and what we tell others."""
