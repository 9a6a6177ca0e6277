"""Stripe's objects, one module each. Importing a module registers its routes, jobs and shapes."""

import importlib
import pkgutil


def load() -> None:
    """Import every resource. Safe any number of times."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
