"""`flask incidents`: declare an outage and see it through, from a terminal or a script."""

from billing.outages.cli import changing, deciding, handling, looking
from billing.outages.cli.options import incident_commands

__all__ = ["changing", "deciding", "handling", "incident_commands", "looking"]
