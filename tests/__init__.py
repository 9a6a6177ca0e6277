"""The tests mirror the packages that they are about."""
