"""What `/metrics` tells of the work: how much there is, how long it has waited, and whether Stripe is left alone.

Everything is counted in the database at the time of asking, so that each web process says the same. No amounts, and
nothing of one agency or account: whoever may ask for it need not be known.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy.orm import InstrumentedAttribute, Session

from billing.circuits import Circuit
from billing.outages import tasks
from billing.outages.models import Pause, Run, Step
from tenants.db import OPERATOR, one_of
from tenants.house import House

OPEN_STEPS = ("approved", "sent", "unknown", "pending")
OPEN_PAUSES = ("planned", "held", "releasing")
OPEN_RUNS = ("waiting", "running", "halted")


def gauges(watched: Sequence[tasks.Watched], house: House) -> list[GaugeMetricFamily]:
    """One reading of all of them. `watched`: the queues of the house's worker."""
    waited: dict[str, float] = {}
    with house.database.work(OPERATOR) as session:
        for queue in watched:
            oldest, now = queue.look(session)
            late = max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0.0
            waited[queue.task] = max(waited.get(queue.task, 0.0), late)
        steps = _counted(session, Step.state, OPEN_STEPS)
        paused = _counted(session, Pause.state, OPEN_PAUSES)
        sending = _counted(session, Run.state, OPEN_RUNS)
        alone = session.scalar(sa.select(sa.func.count()).where(Circuit.opened_at.is_not(None)))
    return [
        GaugeMetricFamily("outage_ready", "1 while /readyz answers 200.", tasks.not_ready(house) is None),
        _by("task", "outage_work_waiting_seconds", "For how long the oldest work that is due has waited.", waited),
        _by("state", "outage_steps", "Calls to Stripe of approved refunds that are not over.", steps),
        _by("state", "outage_pauses", "Subscriptions whose billing is held, or about to be, or to be released.",
            paused),
        _by("state", "outage_runs", "Runs that wait for a person, send, or were halted.", sending),
        GaugeMetricFamily("outage_circuits_open", "Stripe accounts that are left alone for now.", alone or 0),
    ]  # fmt: skip


def _by(label: str, name: str, what: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    """One number for each value of the label."""
    told = GaugeMetricFamily(name, what, labels=[label])
    for value, number in values.items():
        told.add_metric([value], number)
    return told


def _counted(session: Session, state: InstrumentedAttribute[str], states: Sequence[str]) -> dict[str, float]:
    found = session.execute(sa.select(state, sa.func.count()).where(one_of(state, *states)).group_by(state))
    return dict.fromkeys(states, 0.0) | dict(found.all())
