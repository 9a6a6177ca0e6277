"""`/metrics` as Prometheus reads it, and `/readyz` where Stripe cannot be reached."""

import re
from dataclasses import replace
from functools import partial

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from billing import circuits, gateway
from billing.outages import measures, tasks
from billing.outages.models import Step
from tenants import web
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.billing.outages.rows import Approved
from tests.web import app_of, house_of

LINE = re.compile(r"([a-z_]+(?:\{[a-z]+=\"[^\"]*\"\})?) ([0-9.e+-]+)")


def asking(house: House) -> FlaskClient:
    app = app_of(house)
    app.extensions[web.METRICS] = [partial(measures.gauges, tasks.make_celery(house).conf["watched"])]
    app.extensions[web.READY] = [tasks.not_ready]
    return app.test_client()


def measured(house: House) -> dict[str, float]:
    """Each number by its name and label. Every line must be one of the format's three."""
    answer = asking(house).get("/metrics")
    assert (answer.status_code, answer.content_type) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = {}
    for line in answer.text.splitlines():
        if not re.fullmatch(r"# (HELP|TYPE) [a-z_]+ .+", line):
            match = LINE.fullmatch(line)
            assert match, line
            assert match[1] not in found
            found[match[1]] = float(match[2])
    return found


def test_what_is_due_and_for_how_long_is_told(world: Approved, house: House) -> None:
    world.refund_of(1_200)
    new = measured(house)
    assert new["outage_ready"] == 1
    assert new['outage_work_waiting_seconds{task="outages.sweep"}'] < 60
    assert (new['outage_steps{state="sent"}'], new["outage_circuits_open"]) == (0, 0)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Step).values(due_at=sa.func.now() - tasks.STANDSTILL * 2))
        circuits.open_up(session, "acct_secret", "Stripe refuses the key.", 60)
    found = measured(house)
    assert found["outage_ready"] == 0
    # Two minutes, and however long it took to get here.
    assert 119 <= found['outage_work_waiting_seconds{task="outages.sweep"}'] < 180
    assert found['outage_steps{state="approved"}'] == 1
    assert found['outage_runs{state="running"}'] == 1
    assert found["outage_circuits_open"] == 1


def test_nobodys_name_is_told_to_whoever_asks(world: Approved, house: House) -> None:
    world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        circuits.open_up(session, "acct_secret", "Stripe refuses the key.", 60)
    told = asking(house).get("/metrics").text
    assert not re.search(r"acct_|cus_|inc_|in_1|1200", told)


def test_without_a_database_it_is_a_503() -> None:
    gone = Database("postgresql://outage_app@127.0.0.1:1/none")
    answer = asking(house_of(gone)).get("/metrics")
    assert (answer.status_code, answer.text) == (503, "The database does not answer.\n")
    gone.dispose()


def test_a_stripe_that_cannot_be_reached_is_noticed_before_any_call(
    world: Approved, house: House, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.refund_of(1_200)
    assert asking(house).get("/readyz").status_code == 200
    nowhere = replace(house, settings=replace(house.settings, stripe_api_base=f"http://127.0.0.1:{free_port}"))
    answer = asking(nowhere).get("/readyz")
    assert (answer.status_code, answer.json) == (503, {"status": "not ready", "reason": "Stripe cannot be reached."})
    no_key = replace(nowhere, settings=replace(nowhere.settings, stripe_secret_key=""))
    assert asking(no_key).get("/readyz").status_code == 200
    monkeypatch.setattr(gateway, "REACHED_FOR", 0.0)
    back = replace(nowhere, settings=replace(nowhere.settings, stripe_api_base=house.settings.stripe_api_base))
    assert asking(back).get("/readyz").status_code == 200
