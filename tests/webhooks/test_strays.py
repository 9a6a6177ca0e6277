"""Objects that say they are ours and are not what we asked for: nothing is believed, the event waits for a person."""

from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from billing import gateway
from billing.models import Payment
from billing.outages import grants
from billing.outages.findings import Frozen
from billing.outages.models import Step
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.billing import stripe_json as made
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.webhooks.posting import about, kept, post, why
from webhooks import inbox

pytestmark = pytest.mark.breaks("I1 a step has one object", "I3 our amount is Stripe's")


def refund(house: House, stripe: SmallStripe, n: int, step: object, **fields: Any) -> str:
    """A refund in Stripe of customer n's payment that says it is of `step`."""
    metadata = {"engine": gateway.engine(house), "incident": "inc_1", "step": str(step)}
    usual = {"amount": 1_200, "payment_intent": f"pi_{n}_1", "charge": f"ch_{n}_1", "metadata": metadata}
    one = made.refund(**{"id": f"re_stray{len(stripe.refunds)}"} | usual | fields)
    stripe.refunds.append(one)
    return str(one["id"])


def told(client: FlaskClient, house: House, kind: str, id: str, account: str | None = None) -> tuple[str, str]:
    """What became of an event about the object, and why."""
    assert post(client, about(kind, id, account=account)) == 200
    assert inbox.handle_due(house) == 1
    _, state, reason = why(house)
    return state, reason or ""


def frozen(house: House) -> set[str]:
    with house.database.work(OPERATOR) as session:
        return set(session.scalars(sa.select(Frozen.invoice_id)))


def n_of(world: Approved, step_id: int) -> int:
    return int(world.seen(Step, step_id).payment_id.split("_")[1])


@pytest.mark.parametrize("named", ["", "x", "0", "99", "-1", "1e3", "٣", "9" * 30, "1; DROP TABLE steps", "../1", "1 "])
def test_a_step_that_is_malformed_or_not_there(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe, named: str
) -> None:
    step_id = world.refund_of(1_200)
    n = n_of(world, step_id)
    state, reason = told(client, house, "refund", refund(house, stripe, n, named))
    assert (state, frozen(house)) == ("orphan", {f"in_{n}"})
    assert "there is none" in reason
    assert world.seen(Step, step_id).state == "approved"


def test_a_step_that_refunds_another_charge(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    steps, _ = world.refund_over((3_000, 1_200), (2_800, 0))
    victim = world.refund_of(1_200)
    state, reason = told(client, house, "refund", refund(house, stripe, n_of(world, victim), steps[0]))
    assert (state, "takes nothing from this payment" in reason) == ("orphan", True)
    assert frozen(house) == {f"in_{n_of(world, victim)}", f"in_{n_of(world, steps[0])}"}
    assert {world.seen(Step, one).state for one in (*steps, victim)} == {"approved"}


def test_a_step_of_an_agency_with_another_stripe_account(
    client: FlaskClient, house: House, db: Database, world: Approved, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    with db.work(OPERATOR) as session:
        session.execute(sa.text("INSERT INTO agencies (slug, name, stripe_account) VALUES ('elm', 'Elm', 'acct_elm')"))
    stray = refund(house, stripe, 77, step_id)
    state, reason = told(client, house, "refund", stray, "acct_elm")
    assert (state, "another Stripe account" in reason) == ("orphan", True)
    assert frozen(house) == set()  # nobody freezes the invoices of others
    assert world.seen(Step, step_id).state == "approved"


@pytest.mark.breaks(
    "I5 every state has its events", "payments count what steps took", "I7 a run sent what its steps sent",
    "I4 every grant has ended or waits",
)  # fmt: skip
@pytest.mark.parametrize("fields", [{"amount": 1_199}, {"amount": 12}, {"currency": "eur"}])
def test_an_amount_or_currency_that_we_did_not_ask_for(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe, fields: dict[str, Any]
) -> None:
    (step_id, _), _ = world.refund_over((3_000, 1_200), (2_800, 1_000))
    n = n_of(world, step_id)
    with house.database.work(OPERATOR) as session:
        session.execute(
            sa.update(Step)
            .where(Step.id == step_id)
            .values(state="sent", body="{}", first_sent_at=sa.func.now(), attempt_no=1)
        )
    state, reason = told(client, house, "refund", refund(house, stripe, n, step_id, **fields))
    assert (state, "asked for 12.00 USD" in reason) == ("orphan", True)
    assert world.seen(Step, step_id).state == "sent"  # no state from what was not asked for
    assert frozen(house) == {f"in_{n}"}


def test_a_second_object_of_one_step(client: FlaskClient, house: House, world: Approved, stripe: SmallStripe) -> None:
    (step_id, _), _ = world.refund_over((3_000, 1_200), (2_800, 1_000))
    grants.send_due(house, 10)
    first = world.seen(Step, step_id)
    n = n_of(world, step_id)
    state, reason = told(client, house, "refund", refund(house, stripe, n, step_id))
    assert (state, reason) == ("orphan", f"It says it is of our step {step_id}, which has made {first.stripe_id}.")
    assert world.seen(Step, step_id).stripe_id == first.stripe_id
    assert world.seen(Payment, first.payment_id).refunded == 1_200
    assert frozen(house) == {f"in_{n}"}


def test_a_credit_note_of_another_invoice(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    step_id, other = world.refund_of(1_200), world.refund_of(1_200)
    stripe.notes.append(
        made.credit_note(
            id="cn_stray", number="N-1", invoice=f"in_{n_of(world, other)}", customer=f"cus_{n_of(world, other)}",
            total=1_200, pre_payment_amount=0, post_payment_amount=1_200, out_of_band_amount=1_200, refunds=[],
            metadata={"engine": gateway.engine(house), "incident": "inc_1", "step": str(step_id)},
        )
    )  # fmt: skip
    state, reason = told(client, house, "credit_note", "cn_stray")
    assert (state, "makes no credit note" in reason) == ("orphan", True)
    assert frozen(house) == {f"in_{n_of(world, step_id)}", f"in_{n_of(world, other)}"}


def test_what_is_frozen_waits_and_everything_else_goes_on(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    step_id, other = world.refund_of(1_200), world.refund_of(1_200)
    told(client, house, "refund", refund(house, stripe, n_of(world, step_id), "99", amount=1))
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, world.seen(Step, other).state) == ("blocked", "succeeded")


def test_another_installation_names_its_own_steps(
    client: FlaskClient, house: House, world: Approved, stripe: SmallStripe
) -> None:
    n = n_of(world, world.refund_of(1_200))
    strange = refund(house, stripe, n, "99", metadata={"engine": "another", "step": "99"}, amount=1)
    assert told(client, house, "refund", strange)[0] == "handled"
    assert (kept(house), frozen(house)) == ([("evt_1", "handled")], set())
