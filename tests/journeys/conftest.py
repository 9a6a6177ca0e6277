"""What must always hold holds after every journey."""

from tests.invariants import invariants_hold

__all__ = ["invariants_hold"]
