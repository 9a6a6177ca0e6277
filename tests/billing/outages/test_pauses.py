"""Hold, read back, release: whose pause it is, and who may lift it."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from billing import gateway
from billing.outages import held, pauses
from billing.outages.models import HeldInvoice, Incident, Pause
from tenants.db import OPERATOR
from tenants.house import House
from tests.billing.outages.rows import DECLARED, STARTED, Approved
from tests.billing.outages.small_stripe import SmallStripe


def paused(world: Approved, state: str = "planned", **fields: object) -> tuple[str, int]:
    """A subscription with our pause in that state: its id in Stripe, the pause's id."""
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        return f"sub_{n}", world.pause(session, n, state=state, **fields).id


def resolve(world: Approved, incident_id: str = "inc_1", runs: bool = True) -> None:
    with world.database.work(OPERATOR) as session:
        incident = session.get_one(Incident, incident_id)
        incident.state, incident.ended_at = "resolved", DECLARED + timedelta(days=4)
        if runs:
            session.execute(sa.text("UPDATE runs SET state = 'done'"))


def second_incident(world: Approved) -> str:
    with world.database.work(OPERATOR) as session:
        first = session.get_one(Incident, "inc_1")
        session.add(
            Incident(
                id="inc_2", platform_id=first.platform_id + 1, title="", state="declared", started_at=STARTED,
                impact_bp=10_000, declared_by=first.declared_by, declared_at=DECLARED, promise_at=DECLARED,
            )
        )  # fmt: skip
    return "inc_2"


def test_a_hold_is_in_stripe_and_says_for_which_incident(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    assert pauses.hold_due(house, 10) == 1
    assert stripe.subscriptions[subscription]["pause_collection"] == {"behavior": "keep_as_draft", "resumes_at": None}
    assert stripe.subscriptions[subscription]["metadata"] == {"incident": "inc_1"}
    pause = world.seen(Pause, pause_id)
    assert (pause.state, pause.found) == ("held", {"pause_collection": None})
    assert pause.read_back_at is not None


def test_the_soonest_renewal_is_held_first(world: Approved, house: House, stripe: SmallStripe) -> None:
    late, _ = paused(world, renews_at=DECLARED + timedelta(days=9))
    soon, _ = paused(world, renews_at=DECLARED + timedelta(hours=1))
    never, _ = paused(world, renews_at=None)
    pauses.hold_due(house, 10)
    posted = [request.path.rsplit("/", 1)[1] for request in stripe.sent if request.method == "POST"]
    assert posted == [soon, late, never]


def test_somebody_elses_pause_is_left_as_it_was(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    theirs = {"behavior": "void", "resumes_at": 1_570_000_000}
    stripe.subscriptions[subscription]["pause_collection"] = theirs
    pauses.hold_due(house, 10)
    pause = world.seen(Pause, pause_id)
    assert pause.state == "left"
    assert pause.found == {"pause_collection": {"behavior": "void", "resumes_at": "2019-10-02T07:06:40+00:00"}}
    resolve(world)
    pauses.release_due(house, 10)
    assert stripe.subscriptions[subscription]["pause_collection"] == theirs
    assert not [request for request in stripe.sent if request.method == "POST"]


def test_an_ended_subscription_is_left(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    stripe.subscriptions[subscription]["status"] = "canceled"
    gone, gone_id = paused(world)
    del stripe.subscriptions[gone]
    pauses.hold_due(house, 10)
    assert [world.seen(Pause, id).state for id in (pause_id, gone_id)] == ["left", "left"]


def test_a_hold_whose_answer_was_lost_is_found_held(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    stripe.spoil("POST", f"/v1/subscriptions/{subscription}", "lost_after")
    pauses.hold_due(house, 10)
    assert world.seen(Pause, pause_id).state == "planned"
    world.due_now()
    pauses.hold_due(house, 10)
    pause = world.seen(Pause, pause_id)
    assert (pause.state, pause.found) == ("held", {"pause_collection": None})
    assert len(stripe.posts(f"/v1/subscriptions/{subscription}")) == 1


def test_release_lifts_what_is_ours(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    pauses.hold_due(house, 10)
    resolve(world)
    pauses.release_due(house, 10)
    assert stripe.subscriptions[subscription]["pause_collection"] is None
    assert stripe.subscriptions[subscription]["metadata"] == {}
    assert world.seen(Pause, pause_id).state == "released"


def test_nothing_is_released_while_the_agencys_run_goes_on(world: Approved, house: House, stripe: SmallStripe) -> None:
    _, pause_id = paused(world)
    pauses.hold_due(house, 10)
    resolve(world, runs=False)
    assert pauses.release_due(house, 10) == 0
    assert world.seen(Pause, pause_id).state == "held"


def test_release_waits_for_the_last_incident_that_holds(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, first = paused(world)
    other = second_incident(world)
    with world.database.work(OPERATOR) as session:
        second = world.pause(session, int(subscription.split("_")[1]), incident_id=other).id
    pauses.hold_due(house, 10)
    world.due_now()
    pauses.hold_due(house, 10)
    assert [world.seen(Pause, id).state for id in (first, second)] == ["held", "held"]
    resolve(world)
    pauses.release_due(house, 10)
    assert world.seen(Pause, first).state == "released"
    assert stripe.subscriptions[subscription]["pause_collection"] is not None
    resolve(world, other)
    pauses.release_due(house, 10)
    assert world.seen(Pause, second).state == "released"
    assert stripe.subscriptions[subscription]["pause_collection"] is None


def test_what_somebody_paused_meanwhile_is_theirs(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    pauses.hold_due(house, 10)
    stripe.subscriptions[subscription].update(pause_collection={"behavior": "void", "resumes_at": None}, metadata={})
    resolve(world)
    pauses.release_due(house, 10)
    assert world.seen(Pause, pause_id).state == "released"
    assert stripe.subscriptions[subscription]["pause_collection"]["behavior"] == "void"


def test_a_cancelled_subscription_is_not_revived(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    pauses.hold_due(house, 10)
    stripe.subscriptions[subscription]["status"] = "canceled"
    posts = len(stripe.posts(f"/v1/subscriptions/{subscription}"))
    resolve(world)
    pauses.release_due(house, 10)
    assert world.seen(Pause, pause_id).state == "released"
    assert len(stripe.posts(f"/v1/subscriptions/{subscription}")) == posts


def test_a_pause_that_nobody_began_is_cancelled(world: Approved, house: House, stripe: SmallStripe) -> None:
    _, pause_id = paused(world)
    resolve(world)
    pauses.release_due(house, 10)
    assert world.seen(Pause, pause_id).state == "cancelled"
    assert not stripe.sent


def test_resolved_while_the_hold_is_on_its_way_ends_lifted(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)

    def resolve_meanwhile(request: object) -> None:
        if getattr(request, "method", "") == "POST":
            stripe.before_answering = lambda request: None
            resolve(world)
            with world.database.work(OPERATOR) as session:
                pauses.release_settled(session)

    stripe.before_answering = resolve_meanwhile
    pauses.hold_due(house, 10)
    assert stripe.subscriptions[subscription]["pause_collection"] is not None
    pauses.release_due(house, 10)
    assert world.seen(Pause, pause_id).state == "released"
    assert stripe.subscriptions[subscription]["pause_collection"] is None


def test_a_release_that_fails_is_tried_again(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    pauses.hold_due(house, 10)
    resolve(world)
    stripe.spoil("POST", f"/v1/subscriptions/{subscription}", "limited")
    pauses.release_due(house, 10)
    assert world.seen(Pause, pause_id).state == "releasing"
    world.due_now()
    pauses.release_due(house, 10)
    assert world.seen(Pause, pause_id).state == "released"


def test_four_workers_hold_each_subscription_once(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscriptions = [paused(world)[0] for _ in range(12)]
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        while pauses.hold_due(house, 1):
            pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(stripe.posts(f"/v1/subscriptions/{id}")) for id in subscriptions] == [1] * 12


def test_a_pause_that_somebody_lifted_is_for_a_person(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, pause_id = paused(world)
    pauses.hold_due(house, 10)
    stripe.subscriptions[subscription]["pause_collection"] = None
    now = datetime.now(UTC) + timedelta(seconds=1)
    fact = gateway.connect(house, "").subscription(subscription)
    with world.database.work(OPERATOR) as session:
        pauses.confirm(session, fact, now)
    assert world.seen(Pause, pause_id).state == "needs_person"


def test_what_was_read_before_the_hold_says_nothing_about_it(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, pause_id = paused(world)
    before = gateway.connect(house, "").subscription(subscription)
    read_at = datetime.now(UTC) - timedelta(seconds=1)
    pauses.hold_due(house, 10)
    with world.database.work(OPERATOR) as session:
        pauses.confirm(session, before, read_at)
    assert world.seen(Pause, pause_id).state == "held"


# Invoices that a pause holds


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


def row_of(world: Approved, invoice: str) -> HeldInvoice:
    with world.database.work(OPERATOR) as session:
        return session.scalars(sa.select(HeldInvoice).where(HeldInvoice.invoice_id == invoice)).one()


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
