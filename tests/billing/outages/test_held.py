"""Invoices that a pause keeps from being collected: stopped, and taken up again without one left behind."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from billing import gateway
from billing.outages import due, grants, held, pauses, settlements, settling, tasks
from billing.outages.models import HeldInvoice, Pause
from tenants.db import BY_INDEX, OPERATOR, Database, planned
from tenants.house import House
from tests.billing.outages.rows import DECLARED, Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.outages.test_claims import plan_of
from tests.billing.outages.test_pauses import paused, resolve, second_incident


@pytest.fixture
def held_invoice(world: Approved, stripe: SmallStripe) -> tuple[str, int]:
    """An open invoice of 58.00 that Stripe would retry, on a subscription that is to be paused."""
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        invoice = world.invoice(session, n, 5_800, (), status="open")
        pause = world.pause(session, n)
        world.held(session, n, pause)
    stripe.invoices[invoice]["auto_advance"] = True
    return invoice, pause.id


@pytest.fixture
def to_let_go(world: Approved, house: House, held_invoice: tuple[str, int]) -> str:
    """The same invoice, stopped, and its pause lifted."""
    invoice, _ = held_invoice
    pauses.hold_due(house, 10)
    held.stop_due(house, 10)
    resolve(world)
    pauses.release_due(house, 10)
    return invoice


def row_of(world: Approved, invoice: str) -> HeldInvoice:
    with world.database.work(OPERATOR) as session:
        return session.scalars(sa.select(HeldInvoice).where(HeldInvoice.invoice_id == invoice)).one()


def rests(world: Approved, invoice: str) -> timedelta:
    """How long until it is due again."""
    with world.database.work(OPERATOR) as session:
        left = sa.select(HeldInvoice.due_at - sa.func.clock_timestamp()).where(HeldInvoice.invoice_id == invoice)
        return session.scalars(left).one()


def test_an_open_invoice_is_not_retried_while_the_pause_holds(
    world: Approved, house: House, stripe: SmallStripe, held_invoice: tuple[str, int]
) -> None:
    invoice, _ = held_invoice
    assert held.stop_due(house, 10) == 1
    assert stripe.invoices[invoice]["auto_advance"] is False
    assert row_of(world, invoice).state == "held"


def test_its_dunning_is_taken_up_again_at_release(
    world: Approved, house: House, stripe: SmallStripe, held_invoice: tuple[str, int]
) -> None:
    invoice, _ = held_invoice
    pauses.hold_due(house, 10)
    held.stop_due(house, 10)
    assert held.release_due(house, 10) == 0
    resolve(world)
    pauses.release_due(house, 10)
    held.release_due(house, 10)
    assert stripe.invoices[invoice]["auto_advance"] is True
    assert row_of(world, invoice).state == "released"


def test_what_stripe_refuses_to_let_go_is_for_a_person_and_tried_again_each_day(
    world: Approved, house: House, stripe: SmallStripe, to_let_go: str
) -> None:
    stripe.spoil("POST", f"/v1/invoices/{to_let_go}", "refused:invoice_locked")
    assert held.release_due(house, 10) == 1
    assert row_of(world, to_let_go).state == "needs_person"
    assert held.release_due(house, 10) == 0
    assert timedelta(hours=23) < rests(world, to_let_go) <= timedelta(days=1)
    world.due_now()
    assert held.release_due(house, 10) == 1
    assert (row_of(world, to_let_go).state, stripe.invoices[to_let_go]["auto_advance"]) == ("released", True)


@pytest.mark.parametrize("state", ["planned", "held", "finalized", "needs_person"])
def test_what_another_incident_holds_is_not_due_to_be_let_go_again(
    world: Approved, house: House, held_invoice: tuple[str, int], state: str
) -> None:
    invoice, _ = held_invoice
    resolve(world)
    other = second_incident(world)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Pause).values(state="released"))
        session.execute(sa.update(HeldInvoice).values(state=state))
        n = int(invoice.split("_")[1])
        second = world.pause(session, n, incident_id=other, state="held").id
    assert (held.release_due(house, 10), world.due_in()) == (0, None)
    tasks.work_until_quiet(house, world.incident_id, timeout=2)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Pause).where(Pause.id == second).values(state="released"))
    assert (world.due_in() or timedelta(1)) < timedelta(0)
    assert held.release_due(house, 10) == 1


@pytest.mark.parametrize("state", ["held", "needs_person"])
def test_what_is_still_to_be_planned_is_not_due_to_be_let_go_again(
    world: Approved, house: House, held_invoice: tuple[str, int], state: str
) -> None:
    resolve(world)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Pause).values(state="released"))
        session.execute(sa.update(HeldInvoice).values(state=state))
        settlements.at_once(session, world.agency_id, world.incident_id)
    assert (held.release_due(house, 10), world.due_in()) == (0, None)
    settling.settle_due(house, 10)
    assert (world.due_in() or timedelta(1)) < timedelta(0)
    assert held.release_due(house, 10) == 1


def test_what_stripe_did_not_let_go_is_due_work_although_nobody_rings(
    world: Approved, house: House, stripe: SmallStripe, to_let_go: str
) -> None:
    stripe.spoil("POST", f"/v1/invoices/{to_let_go}", "lost_before")
    assert held.release_due(house, 10) == 1
    assert row_of(world, to_let_go).state == "held"
    assert timedelta(0) < rests(world, to_let_go) <= timedelta(seconds=30)
    world.due_now()
    assert (world.due_in() or timedelta(1)) < timedelta(0)


def test_one_that_somebody_works_on_hides_no_other_that_is_due(world: Approved, house: House, to_let_go: str) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (), status="open")
        world.held(session, n, world.pause(session, n, state="released"), state="held", due_at=DECLARED)
        leased = sa.func.clock_timestamp() + timedelta(minutes=1)
        session.execute(sa.update(HeldInvoice).where(HeldInvoice.due_at == DECLARED).values(lease_until=leased))
    assert (world.due_in() or timedelta(1)) < timedelta(0)


def test_an_invoice_that_did_not_collect_by_itself_is_not_made_to(
    world: Approved, house: House, stripe: SmallStripe, held_invoice: tuple[str, int]
) -> None:
    invoice, _ = held_invoice
    stripe.invoices[invoice]["auto_advance"] = False
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(HeldInvoice).values(found_auto_advance=False))
    pauses.hold_due(house, 10)
    held.stop_due(house, 10)
    resolve(world)
    pauses.release_due(house, 10)
    held.release_due(house, 10)
    assert stripe.invoices[invoice]["auto_advance"] is False


def test_a_draft_made_during_the_pause_is_not_stranded(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, _ = paused(world)
    n = int(subscription.split("_")[1])
    pauses.hold_due(house, 10)
    with world.database.work(OPERATOR) as session:
        draft = world.invoice(session, n, 5_800, (), status="draft")
    stripe.invoices[draft].update(auto_advance=False, created=int(DECLARED.timestamp()) + 3_600)
    resolve(world)
    pauses.release_due(house, 10)
    assert row_of(world, draft).state == "held"
    assert held.release_due(house, 10) == 0  # no run has looked at it yet
    settling.settle_due(house, 10)
    held.release_due(house, 10)
    assert (stripe.invoices[draft]["status"], stripe.invoices[draft]["auto_advance"]) == ("open", True)
    assert (row_of(world, draft).state, row_of(world, draft).due) == ("collecting", 5_800)


def test_somebodys_own_draft_stays_theirs(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, _ = paused(world)
    n = int(subscription.split("_")[1])
    pauses.hold_due(house, 10)
    with world.database.work(OPERATOR) as session:
        draft = world.invoice(session, n, 5_800, (), status="draft")
    stripe.invoices[draft].update(billing_reason="manual", created=int(DECLARED.timestamp()) + 3_600)
    resolve(world)
    pauses.release_due(house, 10)
    held.release_due(house, 10)
    assert stripe.invoices[draft]["status"] == "draft"


@pytest.mark.breaks("I4 every grant has ended or waits")
def test_a_draft_is_collected_only_after_its_credit(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, _ = paused(world)
    n = int(subscription.split("_")[1])
    pauses.hold_due(house, 10)
    with world.database.work(OPERATOR) as session:
        draft = world.invoice(session, n, 5_800, (), status="draft")
        grant = world.grant(session, n, reduce=800)
    stripe.invoices[draft].update(auto_advance=False, created=int(DECLARED.timestamp()) + 3_600)
    resolve(world)
    pauses.release_due(house, 10)
    assert held.release_due(house, 10) == 0
    with world.database.work(OPERATOR) as session:
        session.execute(sa.text("UPDATE grants SET state = 'succeeded' WHERE id = :id"), {"id": grant.id})
    held.release_due(house, 10)
    assert stripe.invoices[draft]["auto_advance"] is True


def test_a_draft_is_taken_in_although_the_answer_to_finalizing_it_was_lost(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """Nobody had noticed this draft of the pause. Finalized, it is in no list of drafts any more."""
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        invoice = world.invoice(session, n, 5_800, (), status="draft")
        world.pause(session, n, state="held")
        world.step(session, world.grant(session, n, reduce=800))
    stripe.spoil("POST", f"/v1/invoices/{invoice}/finalize", "lost_after")
    grants.send_due(house, 10)
    world.due_now()
    grants.send_due(house, 10)
    assert stripe.invoices[invoice]["amount_remaining"] == 5_000
    assert (row_of(world, invoice).kind, row_of(world, invoice).state) == ("draft", "finalized")


def test_a_renewal_that_slips_through_is_stopped_when_we_hear_of_it(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, _ = paused(world, state="held")
    n = int(subscription.split("_")[1])
    with world.database.work(OPERATOR) as session:
        draft = world.invoice(session, n, 5_800, (), status="draft")
    stripe.invoices[draft]["auto_advance"] = True
    fact = gateway.connect(house, "").invoice(draft)
    with world.database.work(OPERATOR) as session:
        held.notice(session, fact)
    held.stop_due(house, 10)
    assert stripe.invoices[draft]["auto_advance"] is False


MANY = """
INSERT INTO subscriptions SELECT (x).* FROM (SELECT jsonb_populate_record(s, jsonb_build_object('id', 'sub_m' || n)) x
    FROM subscriptions s, generate_series(1, 3000) n) y;
INSERT INTO invoices SELECT (x).* FROM (SELECT jsonb_populate_record(i, jsonb_build_object(
    'id', 'in_m' || n, 'subscription_id', 'sub_m' || n)) x FROM invoices i, generate_series(1, 3000) n) y;
INSERT INTO pauses (agency_id, incident_id, subscription_id, behavior, state, held_at)
    SELECT p.agency_id, p.incident_id, s.id, p.behavior, 'held', now()
    FROM pauses p, subscriptions s WHERE s.id LIKE '%m%';
INSERT INTO held_invoices (agency_id, invoice_id, pause_id, kind, found_auto_advance, state)
    SELECT p.agency_id, 'in_' || substr(p.subscription_id, 5), p.id, 'open', true, 'held'
    FROM pauses p WHERE p.subscription_id LIKE '%m%'
"""


@pytest.mark.parametrize("counted", [False, True])
def test_however_many_are_held_the_next_to_do_is_found_in_the_order_of_an_index(
    counted: bool, world: Approved, superuser: Database, held_invoice: tuple[str, int]
) -> None:
    """Nothing of these tables is known yet, or what held before everything was let go at once."""
    with superuser.work(OPERATOR) as session:
        for statement in MANY.split(";"):
            session.execute(sa.text(statement))
        if counted:
            session.execute(sa.text("ANALYZE held_invoices, pauses, invoices, grants"))
        session.execute(sa.text("UPDATE held_invoices SET state = 'held'"))
        session.execute(sa.text("UPDATE pauses SET state = 'released', released_at = now()"))
    with world.database.work(OPERATOR) as session:
        session.execute(sa.text("SET LOCAL plan_cache_mode = force_generic_plan"))
        with planned(session, **BY_INDEX):
            for look in (held._next_to_release(), due.oldest()):
                lines = plan_of(session, look)
                assert [line for line in lines if "Index Scan using ix_held_invoices_due" in line] != []
                looked_up = [line for line in lines if "Scan" in line and " on pauses" in line]
                assert looked_up != []
                assert [line for line in looked_up if "Index Scan" not in line or "Bitmap" in line] == []
            session.execute(sa.text("UPDATE held_invoices SET state = 'planned'"))
            session.execute(sa.text("UPDATE pauses SET state = 'held'"))
            assert "Index Scan using ix_held_invoices_due" in "".join(plan_of(session, held._next_to_stop()))
            for state, each in pauses._NEXT.items():
                session.execute(sa.update(Pause).values(state=state))
                for following in each:
                    lines = plan_of(session, following())
                    assert [line for line in lines if "Index Scan using ix_pauses_due" in line] != []
                    assert [line for line in lines if "Sort" in line or "Hash" in line] == []
        session.rollback()
