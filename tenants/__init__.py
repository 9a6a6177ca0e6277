"""Whose data is this, and who is asking."""
