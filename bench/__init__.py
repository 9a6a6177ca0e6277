"""Measurements side by side, each a command of its own: `python -m bench.planning`."""
