"""One approved step, and what may happen to it on its way to exactly one object in Stripe. Amounts in cents."""

import threading
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing import gateway, translate
from billing.batches import Batch, Reading
from billing.circuits import Circuit
from billing.errors import Conflict, NotAllowed
from billing.models import Payment, Refund
from billing.outages import by_hand, claims, due, freezing, grants, hindrances, runs, switch
from billing.outages.invariants import breaches
from billing.outages.models import STEP_NEXT, Attempt, Control, Grant, Incident, Run, RunTotal, Step, StepEvent
from billing.outages.report import report
from billing.recording import record
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tests.billing import stripe_json as made
from tests.billing.outages.rows import DECLARED, Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.wire import Reply, Request

NOTES = "/v1/credit_notes"


def counters(world: Approved, payment_id: str) -> tuple[int, int]:
    payment = world.seen(Payment, payment_id)
    return payment.reserved, payment.refunded


def sent_of(world: Approved) -> int:
    with world.database.work(OPERATOR) as session:
        return session.scalars(sa.select(RunTotal.sent)).one()


def states(world: Approved) -> list[tuple[str, str, int]]:
    with world.database.work(OPERATOR) as session:
        found = session.execute(sa.select(Grant.channel, Grant.state, Grant.amount).order_by(Grant.id))
        return [tuple(row) for row in found]


def retried(world: Approved, step: Step) -> None:
    """A person has looked."""
    with world.database.work(OPERATOR) as session:
        by = session.scalars(sa.select(Member).where(Member.role == "finance")).one()
        by_hand.retry(session, step.grant_id, by, "It is not in the dashboard.", "cli")


# The way it is meant to go


def test_one_payment_is_one_note_with_its_refund(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    assert grants.send_due(house, 10) == 1
    step = world.seen(Step, step_id)
    assert (step.state, step.stripe_id, step.refund_id) == ("succeeded", stripe.notes[0]["id"], stripe.refunds[0]["id"])
    assert stripe.refunds[0]["amount"] == 1_200
    assert stripe.notes[0]["metadata"] == {
        "step": str(step_id), "incident": "inc_1", "engine": gateway.engine(house),
    }  # fmt: skip
    assert "Facebook has been unavailable since Aug 22, 2019" in stripe.notes[0]["memo"]
    assert counters(world, step.payment_id) == (0, 1_200)
    assert sent_of(world) == 1_200
    assert world.seen(Run, "run_1").state == "done"


def test_a_run_repeated_sends_nothing(world: Approved, house: House, stripe: SmallStripe) -> None:
    world.refund_of(1_200)
    grants.send_due(house, 10)
    world.due_now()
    assert grants.send_due(house, 10) == 0
    assert len(stripe.posts(NOTES)) == 1


def test_the_attempt_is_committed_before_the_call(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    seen: list[tuple[str, int, str | None]] = []

    def look(request: object) -> None:
        with world.database.work(OPERATOR) as session:
            step = session.scalars(sa.select(Step).where(Step.id == step_id)).one()
            attempt = session.scalar(sa.select(Attempt).where(Attempt.step_id == step_id))
            if getattr(request, "method", "") == "POST":
                seen.append((step.state, counters_now(session), attempt.key if attempt else None))

    def counters_now(session: object) -> int:
        return session.scalars(sa.select(Payment.reserved)).one()  # type: ignore[attr-defined]

    stripe.before_answering = look
    grants.send_due(house, 1)
    assert seen == [("sent", 1_200, f"e{gateway.engine(house)}:a{world.agency_id}:s{step_id}:n0")]


def test_several_payments_are_refunded_and_then_linked_by_one_note(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    # 30.00 and 20.00 were paid; 25.00 goes back: 20.00 of the newest, 5.00 of the one before.
    refunds, note = world.refund_over((2_000, 2_000), (3_000, 500))
    while grants.send_due(house, 10):
        pass
    assert [world.seen(Step, id).state for id in (*refunds, note)] == ["succeeded"] * 3
    assert [(one["refund"], one["amount_refunded"]) for one in stripe.notes[0]["refunds"]] == [
        (stripe.refunds[0]["id"], 2_000), (stripe.refunds[1]["id"], 500),
    ]  # fmt: skip
    assert stripe.notes[0]["total"] == 2_500
    assert sent_of(world) == 2_500  # the note sends nothing that its refunds did not
    assert len(stripe.refunds) == 2


def test_money_paid_outside_stripe_is_on_the_note_and_for_a_person(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (5_800,))
        grant = world.grant(session, n, out_of_band=700)
        world.step(session, grant)
    grants.send_due(house, 10)
    assert stripe.notes[0]["out_of_band_amount"] == 700
    assert states(world) == [("manual", "needs_person", 700)]
    assert "7.00 USD of this invoice was paid outside Stripe" in world.seen(Grant, grant.id).reason


def test_an_open_invoice_is_asked_for_less(world: Approved, house: House, stripe: SmallStripe) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (), status="open")
        world.step(session, world.grant(session, n, reduce=800))
    grants.send_due(house, 10)
    assert stripe.invoices[f"in_{n}"]["amount_remaining"] == 5_000
    assert states(world) == [("reduce", "succeeded", 800)]


def test_a_draft_is_finalized_before_it_is_credited(world: Approved, house: House, stripe: SmallStripe) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (), status="draft")
        pause = world.pause(session, n, state="held")
        world.held(session, n, pause, kind="draft", state="held")
        world.step(session, world.grant(session, n, reduce=800))
    grants.send_due(house, 10)
    invoice = stripe.invoices[f"in_{n}"]
    assert (invoice["status"], invoice["amount_remaining"], invoice["auto_advance"]) == ("open", 5_000, False)


def test_a_draft_of_which_all_was_lost_is_voided(world: Approved, house: House, stripe: SmallStripe) -> None:
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (), status="draft")
        pause = world.pause(session, n, state="held")
        world.held(session, n, pause, kind="draft", state="held")
        step = world.step(session, world.grant(session, n, reduce=5_800))
    grants.send_due(house, 10)
    assert stripe.invoices[f"in_{n}"]["status"] == "void"
    assert not stripe.notes
    assert (world.seen(Step, step.id).kind, world.seen(Step, step.id).state) == ("void", "succeeded")


# What is not known is asked again


def test_timeout_after_the_effect_is_unknown_and_then_found(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "lost_after")
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "unknown"
    assert counters(world, world.seen(Step, step_id).payment_id) == (1_200, 0)
    world.due_now()
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"
    assert (len(stripe.refunds), len(stripe.posts(NOTES))) == (1, 1)  # found by the list, not sent again
    assert world.seen(Refund, stripe.refunds[0]["id"]).step_id == step_id  # in the mirror, too, before any event


def test_what_is_found_of_another_amount_is_not_believed(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "lost_after")
    grants.send_due(house, 10)
    stripe.notes[0]["total"] = 1_100
    world.due_now()
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.state, step.stripe_id) == ("unknown", None)
    assert "1100 usd where 1200 usd was asked for" in (step.reason or "")
    assert (counters(world, step.payment_id), len(stripe.posts(NOTES))) == ((1_200, 0), 1)


def test_timeout_before_the_effect_is_sent_again_under_the_same_key(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "lost_before")
    grants.send_due(house, 10)
    world.due_now()
    grants.send_due(house, 10)
    first, second = stripe.posts(NOTES)
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.form == second.form
    assert world.seen(Step, step_id).state == "succeeded"
    assert len(stripe.refunds) == 1


def test_an_effect_that_the_list_does_not_show_yet_is_not_made_twice(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "lost_after")
    stripe.shown = False
    grants.send_due(house, 10)
    world.due_now()
    grants.send_due(house, 10)  # the list is empty; the same key brings the stored answer
    assert world.seen(Step, step_id).state == "succeeded"
    assert len(stripe.refunds) == 1


def test_a_stored_failure_with_its_effect_is_found_and_never_sent_anew(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "failed_after")
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "unknown"
    world.due_now()
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"
    assert len(stripe.notes) == 1


def test_a_stored_failure_gets_a_new_key_only_after_two_empty_looks_a_minute_apart(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "failed_before")
    for _ in range(4):
        grants.send_due(house, 10)
        world.due_now()
    assert world.seen(Step, step_id).epoch == 0
    assert not stripe.notes
    world.ago(timedelta(seconds=61))
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.epoch, step.state, len(stripe.refunds)) == (1, "succeeded", 1)


def test_a_stored_answer_that_cannot_be_read_never_gets_a_new_key(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """It was done, Stripe repeats a 200 that brings something else, and the list lags: only a 5xx proves anything."""
    step_id = world.refund_of(1_200)
    stripe.shown = False
    stripe.spoil("POST", NOTES, "lost_after")
    grants.send_due(house, 10)
    (key, (form, done)), *_ = stripe._stored.items()
    stripe._stored[key] = (form, Reply(done.status, {**done.body, "object": "list"}))
    for _ in range(4):
        world.ago(timedelta(seconds=61))
        grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.epoch, step.state, len(stripe.refunds)) == (0, "unknown", 1)


def test_a_second_key_is_given_by_itself_and_a_third_by_a_person_alone(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "failed_before")
    for _ in range(3):
        grants.send_due(house, 10)
        world.due_now()
    stripe.spoil("POST", NOTES, "failed_before")  # the second key meets a stored failure, too
    for _ in range(5):
        world.ago(timedelta(seconds=61))
        grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.epoch, step.state, len(stripe.refunds)) == (1, "needs_person", 0)
    retried(world, step)
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.epoch, step.state, len(stripe.refunds)) == (2, "succeeded", 1)


def made_and_not_seen(world: Approved, house: House, stripe: SmallStripe, step: int) -> None:
    """Stripe makes a note, its answer is lost, and no list shows it before its key is dead: a person has it."""
    stripe.spoil("POST", NOTES, "lost_after")
    stripe.shown = False
    grants.send_due(house, 10)
    world.ago(timedelta(hours=21))
    grants.send_due(house, 10)
    assert world.seen(Step, step).state == "needs_person"


def test_a_person_who_tries_again_what_is_there_after_all_pays_nothing_twice(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    made_and_not_seen(world, house, stripe, step_id)
    stripe.shown = True
    retried(world, world.seen(Step, step_id))
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.refunds)) == ("succeeded", 1)


def test_what_a_person_has_is_looked_for_each_day_and_taken_when_it_shows(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "lost_after")
    stripe.shown = False
    grants.send_due(house, 10)
    world.ago(timedelta(hours=21))
    grants.send_due(house, 10)
    assert grants.send_due(house, 10) == 0  # not before tomorrow
    for _ in range(2):
        world.due_now()
        assert grants.send_due(house, 10) == 1
        assert world.seen(Step, step_id).state == "needs_person"
    stripe.shown = True
    world.due_now()
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"
    assert len(stripe.posts(NOTES)) == 1


def test_only_finance_tries_again_and_only_what_waits(world: Approved, house: House) -> None:
    step = world.seen(Step, world.refund_of(1_200))
    for role, refusal in (("approver", NotAllowed), ("finance", Conflict)):
        with pytest.raises(refusal), world.database.work(OPERATOR) as session:
            by = session.scalars(sa.select(Member).where(Member.role == role)).one()
            by_hand.retry(session, step.grant_id, by, "looked", "cli")
    assert world.seen(Step, step.id).epoch == 0


def test_a_refusal_for_a_dispute_goes_out_under_a_new_key_once_it_is_won(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """Stripe keeps its 400 under the first key: asked again under it, it would refuse for ever."""
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "refused:charge_disputed")
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "blocked"
    with world.database.work(OPERATOR) as session:
        intent = session.scalars(sa.select(Payment.payment_intent)).one()
        grants.unblock(session, intent, None)
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, len(stripe.refunds)) == ("succeeded", 1)


def test_a_refund_that_nobody_can_account_for_forbids_a_new_key(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "failed_before")
    for _ in range(3):
        grants.send_due(house, 10)
        world.due_now()
    n = world.seen(Step, step_id).payment_id.split("_")[1]
    stripe._refund(f"pi_{n}_1", 1_200, {})
    world.ago(timedelta(seconds=61))
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, world.seen(Step, step_id).epoch) == ("needs_person", 0)


def test_after_twenty_hours_nothing_is_sent_again(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "lost_before")
    grants.send_due(house, 10)
    world.ago(timedelta(hours=21))
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "needs_person"
    assert len(stripe.posts(NOTES)) == 1
    assert states(world) == [("refund", "needs_person", 1_200)]


def test_after_twenty_hours_what_the_list_shows_is_still_a_success(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "lost_after")
    grants.send_due(house, 10)
    world.ago(timedelta(hours=21))
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"


@pytest.mark.parametrize("how", ["limited", "busy", "locked_out"])
def test_what_never_began_stays_sent_and_burns_no_look(
    world: Approved, house: House, stripe: SmallStripe, how: str
) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, how)
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.state, step.epoch) == ("sent", 0)
    world.due_now()
    with world.database.work(OPERATOR) as session:  # a minute passes: one call may go out to see
        session.execute(sa.update(Circuit).where(Circuit.see_at.is_not(None)).values(see_at=sa.func.now()))
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"
    assert not [request for request in stripe.sent if request.method == "GET" and request.path == NOTES]


def test_a_key_used_for_another_body_stops_and_does_not_loop(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe._stored[f"e{gateway.engine(house)}:a{world.agency_id}:s{step_id}:n0"] = ([("x", "y")], None)  # type: ignore[assignment]
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "blocked"
    world.due_now()
    assert grants.send_due(house, 10) == 0


def made_elsewhere(world: Approved, house: House, stripe: SmallStripe, step_id: int) -> None:
    """The note of a step, made by a copy of which this database knows nothing: an older backup was put back."""
    payment = world.seen(Step, step_id).payment_id
    assert payment is not None
    number = payment.split("_")[1]
    form = {
        "invoice": f"in_{number}", "amount": "1200", "refund_amount": "1200", "lines[0][type]": "invoice_line_item",
        "lines[0][invoice_line_item]": f"il_{number}", "lines[0][amount]": "1200",
    }  # fmt: skip
    ours = {"step": str(step_id), "incident": world.incident_id, "engine": gateway.engine(house)}
    assert stripe._note(form, ours).status == 200


@pytest.mark.breaks("I1 a step has one object")
def test_what_stripe_has_made_of_a_step_that_was_never_sent_here_is_not_made_again(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """Its key is long forgotten: only the object itself tells."""
    step_id = world.refund_of(1_200)
    made_elsewhere(world, house, stripe, step_id)
    grants.send_due(house, 10)
    assert len(stripe.refunds) == 1
    step = world.seen(Step, step_id)
    assert (step.state, step.reason) == ("needs_person", hindrances.THERE_ALREADY)


@pytest.fixture
def misused(world: Approved, house: House, stripe: SmallStripe) -> int:
    """Another copy uses a step's key with another memo, and its note is there a moment after ours was refused."""
    step_id = world.refund_of(1_200)
    stripe._stored[f"e{gateway.engine(house)}:a{world.agency_id}:s{step_id}:n0"] = ([("other", "memo")], None)  # type: ignore[assignment]
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "blocked"
    made_elsewhere(world, house, stripe, step_id)
    assert len(stripe.refunds) == 1
    return step_id


def test_after_a_key_was_used_for_another_body_the_end_of_a_dispute_changes_nothing(
    world: Approved, house: House, misused: int
) -> None:
    """Only a person can find out what the other copy did."""
    with world.database.work(OPERATOR) as session:
        intent = session.scalars(sa.select(Payment.payment_intent)).one()
        grants.unblock(session, intent, None)
    assert grants.send_due(house, 10) == 0
    assert world.seen(Step, misused).state == "blocked"


def test_after_a_key_was_used_for_another_body_a_person_who_tries_again_finds_what_is_there(
    world: Approved, house: House, stripe: SmallStripe, misused: int
) -> None:
    grant_id = world.seen(Step, misused).grant_id
    with world.database.work(OPERATOR) as session:
        finance = session.scalars(sa.select(Member).where(Member.role == "finance")).one()
        by_hand.retry(session, grant_id, finance, "Nothing is there.", "cli")
    grants.send_due(house, 10)
    assert len(stripe.refunds) == 1
    assert world.seen(Step, misused).state == "succeeded"


def test_the_body_is_frozen_once_written(world: Approved, house: House) -> None:
    step_id = world.refund_of(1_200)
    grants.send_due(house, 10)
    with pytest.raises(IntegrityError, match="frozen"), world.database.work(OPERATOR) as session:
        session.execute(sa.update(Step).where(Step.id == step_id).values(body="{}"))


def test_our_refund_is_ours_in_the_mirror_at_once(world: Approved, house: House) -> None:
    step_id = world.refund_of(1_200)
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert mirrored(world) == [(step.refund_id, step_id, step.stripe_id, 0)]


def test_our_refund_that_came_into_the_mirror_before_its_answer_is_not_anybody_elses_any_more(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """Stripe's event was quicker than its answer, and the refund of a note does not say whose it is."""
    step_id = world.refund_of(1_200)
    before: list[tuple[str, int | None, str | None, int]] = []

    def heard(request: Request) -> None:
        if request.method == "GET" and request.path.startswith("/v1/refunds/") and not before:
            with world.database.work(OPERATOR) as session:
                now = session.scalars(sa.select(sa.func.clock_timestamp())).one()
                heard_of = Batch(refunds=[translate.refund(stripe.refunds[0])])
                record(session, Reading("", gateway.engine(house), now), heard_of)
            before.extend(mirrored(world))

    stripe.before_answering = heard
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert before == [(step.refund_id, None, None, 1_200)]
    assert mirrored(world) == [(step.refund_id, step_id, step.stripe_id, 0)]


def mirrored(world: Approved) -> list[tuple[str, int | None, str | None, int]]:
    """(refund, step, note, what the payment counts as given back by others)"""
    with world.database.work(OPERATOR) as session:
        of_payment = Refund.payment_intent == Payment.payment_intent
        found = sa.select(Refund.id, Refund.step_id, Refund.credit_note_id, Payment.elsewhere).join(Payment, of_payment)
        return [tuple(row) for row in session.execute(found)]  # type: ignore[misc]


# Two workers


def test_two_workers_never_send_one_step_twice(world: Approved, house: House, stripe: SmallStripe) -> None:
    steps = [world.refund_of(100 + i) for i in range(6)]
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        while grants.send_due(house, 1):
            pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [world.seen(Step, id).state for id in steps] == ["succeeded"] * 6
    assert len(stripe.posts(NOTES)) == 6
    assert all(world.seen(Step, id).attempt_no == 1 for id in steps)


def test_two_grants_that_end_at_the_same_moment_end_their_run(world: Approved, house: House) -> None:
    """Each transaction sees the other's grant still at work: the run is looked at once both have committed."""
    both = threading.Barrier(2)
    world.refund_of(100)
    world.refund_of(200)
    answered = grants._answered

    def together(session: object, *args: object) -> None:
        answered(session, *args)  # type: ignore[arg-type]
        both.wait(10)

    grants._answered = together  # type: ignore[assignment]
    try:
        threads = [threading.Thread(target=grants.send_due, args=(house, 1)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        grants._answered = answered
    assert world.seen(Run, "run_1").state == "done"


def test_a_success_is_a_fact_although_the_lease_was_lost(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)

    def take_over(request: object) -> None:
        if getattr(request, "method", "") == "POST":
            with world.database.work(OPERATOR) as session:
                session.execute(sa.update(Step).values(attempt_no=Step.attempt_no + 1))

    stripe.before_answering = take_over
    grants.send_due(house, 1)
    assert world.seen(Step, step_id).state == "succeeded"


def test_a_failure_does_not_count_once_the_lease_was_lost(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "refused:charge_not_refundable")

    def take_over(request: object) -> None:
        if getattr(request, "method", "") == "POST":
            with world.database.work(OPERATOR) as session:
                session.execute(sa.update(Step).values(attempt_no=Step.attempt_no + 1))

    stripe.before_answering = take_over
    grants.send_due(house, 1)
    assert world.seen(Step, step_id).state == "sent"
    assert states(world) == [("refund", "sent", 1_200)]


def test_a_worker_that_died_leaves_a_step_that_is_looked_for_first(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)

    class Dead(BaseException):
        pass

    def die(*_: object) -> None:
        raise Dead

    answered = grants._answered
    grants._answered = die  # type: ignore[assignment]
    try:
        with pytest.raises(Dead):
            grants.send_due(house, 1)
    finally:
        grants._answered = answered
    assert world.seen(Step, step_id).state == "sent"
    assert grants.send_due(house, 1) == 0  # the lease holds
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Step).values(lease_until=sa.func.now() - timedelta(seconds=1)))
    world.due_now()
    assert grants.send_due(house, 1) == 1
    assert world.seen(Step, step_id).state == "succeeded"
    assert len(stripe.posts(NOTES)) == 1


# What bounds it


def test_the_database_refuses_to_refund_more_than_was_captured(world: Approved) -> None:
    step_id = world.refund_of(1_200)
    payment_id = world.seen(Step, step_id).payment_id
    with pytest.raises(IntegrityError, match="never_more_than_captured"), world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).where(Payment.id == payment_id).values(reserved=5_801))


@pytest.mark.breaks("payments count what steps took")
def test_a_step_without_room_on_its_payment_is_not_sent(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(refunded=5_000))  # 58.00 captured: 8.00 is left for 12.00
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.state, step.reason[:12]) == ("cancelled", "plan_changed")
    assert not stripe.posts(NOTES)
    assert sent_of(world) == 0


def test_a_run_never_sends_more_than_was_approved(db: Database, stripe: SmallStripe, house: House) -> None:
    world = Approved(db, stripe).begin(approved=2_000)
    for _ in range(3):
        world.refund_of(900)  # room for two of three
    while grants.send_due(house, 10):
        pass
    assert sorted(state for _, state, _ in states(world)) == ["cancelled", "succeeded", "succeeded"]
    assert sent_of(world) == 1_800


def test_a_refund_by_hand_since_the_plan_cancels_the_step(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(elsewhere=300))
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "cancelled"
    assert not stripe.posts(NOTES)


@pytest.mark.breaks("payments count what steps took")
def test_another_incidents_refund_of_ours_does_not_cancel_the_step(world: Approved, house: House) -> None:
    step_id = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(refunded=300, reserved=100))
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"


def test_a_disputed_payment_waits_and_goes_out_when_the_dispute_ends(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(dispute_open=True))
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "blocked"
    payment_id = world.seen(Step, step_id).payment_id
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Payment).values(dispute_open=False))
        intent = session.scalars(sa.select(Payment.payment_intent).where(Payment.id == payment_id)).one()
        grants.unblock(session, intent, None)
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "succeeded"


@pytest.mark.parametrize("scope", ["", "everything", "incident:inc_1", "account:"])
def test_what_is_halted_is_not_sent(world: Approved, house: House, stripe: SmallStripe, scope: str) -> None:
    world.refund_of(1_200)
    with world.database.work(OPERATOR) as session:
        session.add(Control(scope=scope, sending=False, reason="halted", by="finance@example.com"))
    assert grants.send_due(house, 10) == 0
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Control).values(sending=True))
    assert grants.send_due(house, 10) == 1
    assert len(stripe.refunds) == 1


@pytest.mark.parametrize("turned_off", ["incident", "run", "retracted"])
def test_a_worker_held_up_after_its_attempt_looks_again_before_it_sends(
    world: Approved, house: House, stripe: SmallStripe, monkeypatch: pytest.MonkeyPatch, turned_off: str
) -> None:
    step_id = world.refund_of(1_200)
    begin = claims.begin

    def held_up(*args: object) -> object:
        sent = begin(*args)  # type: ignore[arg-type]
        assert sent is not None
        return replace(sent, seen_on=sent.seen_on - switch.FRESH)

    monkeypatch.setattr(claims, "begin", held_up)
    may_leave = claims.may_leave

    def halted_meanwhile(session: Session, sent: claims.Sent) -> bool:
        if turned_off == "incident":
            session.add(Control(scope="incident:inc_1", sending=False, reason="halted", by="x"))
        elif turned_off == "run":
            session.execute(sa.update(Run).values(state="halted"))
        else:
            session.execute(sa.update(Incident).values(state="retracted"))
        session.flush()
        return may_leave(session, sent)

    monkeypatch.setattr(claims, "may_leave", halted_meanwhile)
    grants.send_due(house, 10)
    assert not stripe.posts(NOTES)
    assert world.seen(Step, step_id).state == "sent"
    with world.database.work(OPERATOR) as session:
        assert session.scalars(sa.select(Attempt.outcome)).all() == ["stopped"]


def test_of_a_retracted_incident_nothing_is_sent_again_and_what_was_sent_ends_known(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    limited, done, lost = (world.refund_of(amount) for amount in (1_200, 700, 500))
    stripe.spoil("POST", NOTES, "limited", "lost_after", "lost_before")
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(state="retracted"))
    world.due_now()
    grants.send_due(house, 10)
    assert [world.seen(Step, id).state for id in (limited, done, lost)] == ["cancelled", "succeeded", "unknown"]
    assert counters(world, world.seen(Step, limited).payment_id) == (0, 0)
    world.ago(timedelta(hours=21))
    grants.send_due(house, 10)
    assert world.seen(Step, lost).state == "needs_person"
    assert len(stripe.posts(NOTES)) == 3


@pytest.mark.parametrize(("stranger", "ends"), [(False, "cancelled"), (True, "needs_person")])
def test_of_a_retracted_incident_what_a_person_lets_be_tried_again_is_looked_for_once_more_and_ends(
    world: Approved, house: House, stripe: SmallStripe, stranger: bool, ends: str
) -> None:
    lost = world.refund_of(500)
    stripe.spoil("POST", NOTES, "lost_before")
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(state="retracted"))
    world.ago(timedelta(hours=21))
    grants.send_due(house, 10)
    retried(world, world.seen(Step, lost))
    if stranger:  # a refund of the same payment that nobody can account for
        with world.database.work(OPERATOR) as session:
            intent = session.scalars(sa.select(Payment.payment_intent)).one()
        stripe.refunds.append(made.refund(id="re_strange", amount=500, payment_intent=intent, metadata={}))
    grants.send_due(house, 10)
    step = world.seen(Step, lost)
    assert step.state == ends
    assert counters(world, step.payment_id) == ((500, 0) if stranger else (0, 0))  # 5.00 are kept for what may be there
    assert len(stripe.posts(NOTES)) == 1


@pytest.mark.parametrize(
    ("out", "others", "spoiled", "given"),
    [
        (1, {}, (), 2_000),
        (1, {}, ("limited",), 2_000),
        (1, {"out_of_band": 700}, (), 2_000),
        (2, {"credit": 300}, (), 2_500),
    ],
)
def test_of_a_retracted_incident_the_note_is_about_the_refunds_that_were_out(
    world: Approved, house: House, stripe: SmallStripe, out: int, others: dict[str, int], spoiled: tuple[str, ...],
    given: int,
) -> None:  # fmt: skip
    """20.00 and 5.00 of two payments, with 7.00 by hand or 3.00 of credit: what is not out stays with us, and nobody is
    asked about it."""
    (_, second), note = world.refund_over((2_000, 2_000), (3_000, 500), **others)
    for _ in range(out):
        grants.send_due(house, 1)
    stripe.spoil("POST", "/v1/refunds", *spoiled)
    grants.send_due(house, len(spoiled))
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(state="retracted"))
    for _ in range(3):
        world.due_now()
        grants.send_due(house, 10)
    assert [refund["amount"] for refund in stripe.refunds] == [2_000, 500][:out]
    assert [(one["total"], one["out_of_band_amount"]) for one in stripe.notes] == [(given, None)]
    assert states(world) == [("refund", "succeeded", given)]
    assert world.seen(Step, second).state == ("cancelled" if out == 1 else "succeeded")
    assert counters(world, world.seen(Step, second).payment_id) == (0, 0 if out == 1 else 500)
    assert (world.seen(Step, note).amount, sent_of(world)) == (given, given)


def test_a_refused_note_of_a_retracted_incident_is_tried_again_as_one_about_the_refunds_that_were_out(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """20.00 and 5.00 are with their cards, Stripe refuses the note that gives 3.00 of credit besides: those stay with
    us."""
    _, note = world.refund_over((2_000, 2_000), (3_000, 500), credit=300)
    stripe.spoil("POST", NOTES, "refused:something_new")
    while grants.send_due(house, 10):
        pass
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(state="retracted"))
    retried(world, world.seen(Step, note))
    while grants.send_due(house, 10):
        pass
    assert [(one["total"], len(one["refunds"])) for one in stripe.notes] == [(2_500, 2)]
    assert world.seen(Step, note).state == "cancelled"
    assert states(world) == [("refund", "succeeded", 2_500)]
    assert sent_of(world) == 2_500
    with world.database.work(OPERATOR) as session:
        assert [one.sentence() for one in breaches(session)] == []


def test_what_was_in_flight_when_it_was_halted_ends_known(world: Approved, house: House, stripe: SmallStripe) -> None:
    found, missing = world.refund_of(1_200), world.refund_of(700)
    stripe.spoil("POST", NOTES, "lost_after", "lost_before")
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        session.add(Control(scope="incident:inc_1", sending=False, reason="halted", by="finance@example.com"))
    world.due_now()
    grants.send_due(house, 10)
    assert world.seen(Step, found).state == "succeeded"  # looked for
    assert world.seen(Step, missing).state == "unknown"  # and not sent again
    assert len(stripe.posts(NOTES)) == 2


# When the way back is closed


def test_a_refund_that_comes_back_at_once_becomes_a_credit(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    stripe.refund_status = "failed"
    while grants.send_due(house, 10):
        pass
    step = world.seen(Step, step_id)
    assert step.state == "failed"
    assert counters(world, step.payment_id) == (0, 0)
    assert states(world) == [("refund", "failed", 1_200), ("credit", "succeeded", 1_200)]
    assert [entry["amount"] for entry in stripe.entries] == [-1_200]
    assert sent_of(world) == 1_200


def comes_back(world: Approved, house: House, refund: dict[str, object]) -> None:
    """The bank returns a refund that had succeeded."""
    refund.update(status="failed", failure_reason="lost_or_stolen_card")
    fact = gateway.connect(house, "").refund(str(refund["id"]))
    with world.database.work(OPERATOR) as session:
        grants.settle(session, fact, "", gateway.engine(house))


def test_a_refund_that_comes_back_weeks_later_is_booked_back(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    grants.send_due(house, 10)
    assert world.seen(Run, "run_1").state == "done"
    comes_back(world, house, stripe.refunds[0])
    assert counters(world, world.seen(Step, step_id).payment_id) == (0, 0)
    while grants.send_due(house, 10):
        pass
    assert states(world) == [("refund", "failed", 1_200), ("credit", "succeeded", 1_200)]


@pytest.mark.parametrize("spoiled", [(), ("limited",), ("lost_before",), ("lost_after",)])
def test_a_refund_that_comes_back_after_a_retraction_goes_to_the_balance(
    world: Approved, house: House, stripe: SmallStripe, spoiled: tuple[str, ...]
) -> None:
    world.refund_of(1_200)
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Incident).values(state="retracted"))
        customer = session.scalars(sa.select(Grant.customer_id)).one()
    comes_back(world, house, stripe.refunds[0])
    stripe.spoil("POST", f"/v1/customers/{customer}/balance_transactions", *spoiled)
    for _ in range(3):
        world.due_now()
        grants.send_due(house, 10)
    assert states(world) == [("refund", "failed", 1_200), ("credit", "succeeded", 1_200)]  # 12.00, as they were told
    assert [entry["amount"] for entry in stripe.entries] == [-1_200]


def test_what_came_back_is_not_called_off_with_what_was_never_sent(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    world.refund_of(1_200)
    grants.send_due(house, 10)
    comes_back(world, house, stripe.refunds[0])
    world.refund_of(700)
    with world.database.work(OPERATOR) as session:
        runs.call_off(session, ["run_1"], "The incident was cut before this was sent.")
    while grants.send_due(house, 10):
        pass
    assert sorted(states(world)) == [
        ("credit", "succeeded", 1_200), ("refund", "cancelled", 700), ("refund", "failed", 1_200),
    ]  # fmt: skip


@pytest.mark.parametrize(("fall_back", "status"), [(False, "active"), (True, "canceled")])
def test_where_credit_is_of_no_use_a_person_pays_it_back(
    db: Database, stripe: SmallStripe, house: House, fall_back: bool, status: str
) -> None:
    world = Approved(db, stripe).begin(fall_back=fall_back)
    world.refund_of(1_200, status=status)
    stripe.refund_status = "failed"
    while grants.send_due(house, 10):
        pass
    assert states(world) == [("refund", "failed", 1_200), ("manual", "needs_person", 1_200)]
    assert not stripe.entries


def test_only_the_part_that_came_back_leaves_its_grant(world: Approved, house: House, stripe: SmallStripe) -> None:
    # 9.00 of 12.00 went to the card and came back; 3.00 went to the balance and stays: 3.00 + 9.00 = 12.00.
    with world.database.work(OPERATOR) as session:
        n = world.customer(session)
        world.invoice(session, n, 5_800, (5_800,))
        grant = world.grant(session, n, refund=900, credit=300)
        world.step(session, grant, payment_id=f"inpay_{n}_1", available=5_800, refund=900)
    stripe.refund_status = "failed"
    while grants.send_due(house, 10):
        pass
    assert states(world) == [("credit", "succeeded", 300), ("credit", "succeeded", 900)]
    assert sent_of(world) == 1_200


def test_one_of_two_refunds_comes_back_and_the_note_links_the_other(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    # 20.00 and 5.00 were to go back; the 20.00 fail: the note is for 5.00, and 20.00 go to the balance.
    (first, second), note = world.refund_over((2_000, 2_000), (3_000, 500))
    stripe.refund_status = "failed"
    grants.send_due(house, 1)
    stripe.refund_status = "succeeded"
    while grants.send_due(house, 10):
        pass
    assert [world.seen(Step, id).state for id in (first, second, note)] == ["failed", "succeeded", "succeeded"]
    assert stripe.notes[0]["total"] == 500
    assert states(world) == [("refund", "succeeded", 500), ("credit", "succeeded", 2_000)]
    assert sent_of(world) == 2_500


def test_a_note_whose_refunds_all_come_back_later_gives_nothing_beside_its_fallbacks(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    # 20.00 and 5.00 went back: first the 20.00 come back, and 5.00 stay, then those: 20.00 + 5.00 go to the balance.
    _, note = world.refund_over((2_000, 2_000), (3_000, 500))
    while grants.send_due(house, 10):
        pass
    comes_back(world, house, stripe.refunds[0])
    while grants.send_due(house, 10):
        pass
    assert states(world) == [("refund", "succeeded", 500), ("credit", "succeeded", 2_000)]
    comes_back(world, house, stripe.refunds[1])
    while grants.send_due(house, 10):
        pass
    assert states(world) == [("refund", "failed", 500), ("credit", "succeeded", 2_000), ("credit", "succeeded", 500)]
    assert (world.seen(Step, note).state, sent_of(world)) == ("succeeded", 2_500)
    with world.database.work(OPERATOR) as session:
        assert report(session, DECLARED, world.incident_id)["money"][0]["given"] == 2_500


def test_a_note_whose_refunds_all_come_back_later_stands_for_what_it_gave_itself(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    # 20.00 and 5.00 went to cards and came back, 3.00 went to the balance and stay there: 3.00 + 20.00 + 5.00 = 28.00.
    world.refund_over((2_000, 2_000), (3_000, 500), credit=300)
    while grants.send_due(house, 10):
        pass
    for refund in stripe.refunds:
        comes_back(world, house, refund)
        while grants.send_due(house, 10):
            pass
    assert [(state, amount) for _, state, amount in states(world)] == [
        ("succeeded", 300), ("succeeded", 2_000), ("succeeded", 500),
    ]  # fmt: skip


def both_come_back_meanwhile(world: Approved, house: House, stripe: SmallStripe) -> list[str]:
    """Both refunds come back while the note that links them is on its way. Fills what this returns with the rules that
    are broken then, before the note's answer is there."""
    broken: list[str] = []

    def come_back(request: Request) -> None:
        if request.method == "POST" and request.path == NOTES:
            stripe.before_answering = lambda request: None
            for refund in stripe.refunds:
                comes_back(world, house, refund)
            with world.database.work(OPERATOR) as session:
                broken.extend(one.sentence() for one in breaches(session))
                broken.extend(session.scalars(sa.select(Grant.state).where(Grant.fallback_of.is_(None))))

    stripe.before_answering = come_back
    return broken


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        ("", "succeeded"), ("lost_after", "succeeded"), ("failed_after", "succeeded"), ("lost_before", "succeeded"),
        ("refused:refunds_came_back", "cancelled"), ("limited", "cancelled"),
    ],
)  # fmt: skip
def test_refunds_that_both_come_back_while_their_note_is_in_flight_end_their_grant_at_once(
    world: Approved, house: House, stripe: SmallStripe, answer: str, ends: str
) -> None:
    # 20.00 and 5.00 went back, and both come back before Stripe has answered about the note: 20.00 + 5.00 go to the
    # balance, and these 25.00 are all that was owed and all that was sent.
    _, note = world.refund_over((2_000, 2_000), (3_000, 500))
    seen = both_come_back_meanwhile(world, house, stripe)
    stripe.spoil("POST", NOTES, answer)
    for _ in range(4):
        grants.send_due(house, 10)
        world.due_now()
    assert seen == ["failed"]
    assert states(world) == [("refund", "failed", 500), ("credit", "succeeded", 2_000), ("credit", "succeeded", 500)]
    assert (world.seen(Step, note).state, len(stripe.notes)) == (ends, int(ends == "succeeded"))
    assert (sent_of(world), sum(entry["amount"] for entry in stripe.entries)) == (2_500, -2_500)
    assert world.seen(Run, "run_1").state == "done"


def test_all_is_not_quiet_before_the_answer_about_a_note_whose_refunds_both_came_back(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    world.refund_over((2_000, 2_000), (3_000, 500))
    both_come_back_meanwhile(world, house, stripe)
    stripe.spoil("POST", NOTES, "lost_after")
    grants.send_due(house, 10)
    assert [state for _, state, _ in states(world)] == ["failed", "succeeded", "succeeded"]
    assert not due.is_quiet(house, world.incident_id)
    world.due_now()
    grants.send_due(house, 10)
    assert due.is_quiet(house, world.incident_id)


def test_a_note_in_flight_whose_refunds_both_come_back_stands_for_what_it_gives_itself(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    # 20.00 and 5.00 come back while the note that also gives 3.00 is on its way: 3.00 + 20.00 + 5.00 = 28.00.
    _, note = world.refund_over((2_000, 2_000), (3_000, 500), credit=300)
    seen = both_come_back_meanwhile(world, house, stripe)
    stripe.spoil("POST", NOTES, "refused:refunds_came_back")
    while grants.send_due(house, 10):
        pass
    assert seen == ["sent"]
    assert (world.seen(Step, note).state, sent_of(world)) == ("needs_person", 2_800)
    assert [(state, amount) for _, state, amount in states(world)] == [
        ("needs_person", 300), ("succeeded", 2_000), ("succeeded", 500),
    ]  # fmt: skip


def test_a_refusal_that_no_list_confirms_ends_no_note(world: Approved, house: House, stripe: SmallStripe) -> None:
    _, note = world.refund_over((2_000, 2_000), (3_000, 500))
    both_come_back_meanwhile(world, house, stripe)
    stripe.spoil("POST", NOTES, "refused:refunds_came_back")
    stripe.spoil("GET", NOTES, *["failed_before"] * 3)  # a look is tried three times
    while grants.send_due(house, 10):
        pass
    assert world.seen(Step, note).state == "unknown"
    world.due_now()
    grants.send_due(house, 10)
    assert (world.seen(Step, note).state, len(stripe.posts(NOTES))) == ("cancelled", 2)  # asked again, and looked for
    assert [state for _, state, _ in states(world)] == ["failed", "succeeded", "succeeded"]


def test_refunds_that_both_come_back_after_their_note_was_refused_leave_nothing_for_a_person(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    _, note = world.refund_over((2_000, 2_000), (3_000, 500))
    stripe.spoil("POST", NOTES, "refused:something_new", "refused:something_new")
    while grants.send_due(house, 10):
        pass
    assert [state for _, state, _ in states(world)] == ["needs_person"]
    for refund in stripe.refunds:
        comes_back(world, house, refund)
    while grants.send_due(house, 10):
        pass
    assert states(world) == [("refund", "failed", 500), ("credit", "succeeded", 2_000), ("credit", "succeeded", 500)]
    retried(world, world.seen(Step, note))  # somebody had it before them still
    grants.send_due(house, 10)
    assert (world.seen(Step, note).state, len(stripe.posts(NOTES))) == ("cancelled", 1)
    assert [state for _, state, _ in states(world)] == ["failed", "succeeded", "succeeded"]


@pytest.mark.parametrize(("back", "credit", "links"), [(1, 0, [500]), (1, 300, [500]), (2, 300, [])])
def test_a_refused_note_is_tried_again_without_the_refunds_that_came_back_since(
    world: Approved, house: House, stripe: SmallStripe, back: int, credit: int, links: list[int]
) -> None:
    # 20.00 and 5.00 are with their cards, and Stripe refuses the note. Then 20.00, or both, come back and go to the
    # balance: what is left is 5.00, 5.00 + 3.00, or 3.00, and with what went to the balance it is all that was owed.
    _, note = world.refund_over((2_000, 2_000), (3_000, 500), credit=credit)
    stripe.spoil("POST", NOTES, "refused:something_new")
    while grants.send_due(house, 10):
        pass
    for refund in stripe.refunds[:back]:
        comes_back(world, house, refund)
    while grants.send_due(house, 10):
        pass
    retried(world, world.seen(Step, note))
    while grants.send_due(house, 10):
        pass
    (made,) = stripe.notes
    assert [one["amount_refunded"] for one in made["refunds"]] == links
    assert made["total"] == sum(links) + credit
    assert world.seen(Step, note).state == "cancelled"
    assert [(state, amount) for _, state, amount in states(world)] == [
        ("succeeded", sum(links) + credit), ("succeeded", 2_000), ("succeeded", 500),
    ][: 1 + back]  # fmt: skip
    assert sent_of(world) == 2_500 + credit
    assert world.seen(Run, "run_1").state == "done"
    with world.database.work(OPERATOR) as session:
        assert [one.sentence() for one in breaches(session)] == []


def test_a_note_that_may_be_there_is_asked_for_as_it_was_although_a_refund_came_back(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    _, note = world.refund_over((2_000, 2_000), (3_000, 500))
    made_and_not_seen(world, house, stripe, note)
    comes_back(world, house, stripe.refunds[0])
    retried(world, world.seen(Step, note))
    stripe.shown = True
    while grants.send_due(house, 10):
        pass
    step = world.seen(Step, note)
    assert (step.state, step.stripe_id, len(stripe.notes)) == ("succeeded", stripe.notes[0]["id"], 1)


def test_refunds_that_both_come_back_end_their_note_that_waits_frozen_and_was_never_sent(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    (_, second), note = world.refund_over((2_000, 2_000), (3_000, 500))
    grants.send_due(house, 2)
    assert world.seen(Step, second).state == "succeeded"
    with world.database.work(OPERATOR) as session:
        invoice = session.scalars(sa.select(Grant.invoice_id)).one()
        freezing.freeze(session, [(world.agency_id, invoice, "our books differ")])
    grants.send_due(house, 10)
    assert world.seen(Step, note).state == "blocked"
    for refund in stripe.refunds:
        comes_back(world, house, refund)
    assert world.seen(Step, note).state == "cancelled"
    assert [state for _, state, _ in states(world)] == ["failed", "approved", "approved"]


def test_a_note_that_may_be_there_is_not_called_off_with_its_refunds(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    # Its answer was lost, no list showed it, and a person lets it be tried again: then both refunds come back.
    _, note = world.refund_over((2_000, 2_000), (3_000, 500))
    made_and_not_seen(world, house, stripe, note)
    retried(world, world.seen(Step, note))
    for refund in stripe.refunds:
        comes_back(world, house, refund)
    assert (world.seen(Step, note).state, states(world)[0]) == ("approved", ("refund", "failed", 500))
    stripe.shown = True
    while grants.send_due(house, 10):
        pass
    step = world.seen(Step, note)
    assert (step.state, step.stripe_id, len(stripe.notes)) == ("succeeded", stripe.notes[0]["id"], 1)
    assert states(world) == [("refund", "failed", 500), ("credit", "succeeded", 2_000), ("credit", "succeeded", 500)]


def test_a_pending_refund_does_not_hold_up_the_run_and_settles_later(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe.refund_status = "pending"
    grants.send_due(house, 10)
    step = world.seen(Step, step_id)
    assert (step.state, counters(world, step.payment_id)) == ("pending", (1_200, 0))
    assert world.seen(Run, "run_1").state == "done"
    stripe.refunds[0]["status"] = "succeeded"
    world.due_now()
    grants.send_due(house, 10)
    assert (world.seen(Step, step_id).state, counters(world, step.payment_id)) == ("succeeded", (0, 1_200))


def test_a_refund_by_hand_that_the_mirror_has_not_heard_of_is_seen_before_sending(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    n = world.seen(Step, step_id).payment_id.split("_")[1]
    stripe._refund(f"pi_{n}_1", 300, {})
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "cancelled"
    assert world.seen(Payment, f"inpay_{n}_1").elsewhere == 300
    assert not stripe.posts(NOTES)


def test_a_payment_given_back_elsewhere_at_the_last_moment_is_not_given_again(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    n = world.seen(Step, step_id).payment_id.split("_")[1]

    def by_hand(request: object) -> None:
        if getattr(request, "path", "") == "/v1/refunds":
            stripe.before_answering = lambda request: None
            stripe._refund(f"pi_{n}_1", 5_800, {})

    stripe.before_answering = by_hand  # once our look at the payment was answered
    grants.send_due(house, 10)
    assert world.seen(Step, step_id).state == "given_elsewhere"
    assert counters(world, world.seen(Step, step_id).payment_id) == (0, 0)


def given_back_after_our_look(world: Approved, stripe: SmallStripe, *step_ids: int) -> None:
    """Somebody gives back all that these steps' payments have left, each once our look at it was answered."""
    steps = [world.seen(Step, step_id) for step_id in step_ids]
    left = {step.payment_id.replace("inpay", "pi"): step.available for step in steps}

    def by_hand(request: Request) -> None:
        if (request.method, request.path) == ("GET", "/v1/refunds"):
            for intent in left.keys() & dict(request.form).values():
                stripe._refund(intent, left.pop(intent), {})

    stripe.before_answering = by_hand


def test_the_note_about_two_payments_leaves_out_the_one_that_was_given_back_elsewhere(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    # 20.00 and 5.00 were to go back; somebody else gave the 20.00: the note is for 5.00, and 5.00 are what we sent.
    (first, second), note = world.refund_over((2_000, 2_000), (3_000, 500))
    given_back_after_our_look(world, stripe, first)
    while grants.send_due(house, 10):
        pass
    assert [world.seen(Step, id).state for id in (first, second, note)] == ["given_elsewhere", "succeeded", "succeeded"]
    assert [one["total"] for one in stripe.notes] == [500]
    assert (states(world), sent_of(world)) == ([("refund", "succeeded", 2_500)], 500)


def test_of_payments_that_were_all_given_back_elsewhere_there_is_no_note(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    (first, second), note = world.refund_over((2_000, 2_000), (500, 500))
    given_back_after_our_look(world, stripe, first, second)
    while grants.send_due(house, 10):
        pass
    assert [world.seen(Step, id).state for id in (first, second)] == ["given_elsewhere", "given_elsewhere"]
    assert (world.seen(Step, note).state, stripe.posts(NOTES)) == ("cancelled", [])
    assert (states(world), sent_of(world)) == ([("refund", "given_elsewhere", 2_500)], 0)


def test_the_note_gives_only_the_rest_where_all_payments_were_given_back_elsewhere(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    # 20.00 and 5.00 to cards, which somebody else gave, and 3.00 to the balance: the note gives the 3.00 alone.
    (first, second), note = world.refund_over((2_000, 2_000), (500, 500), credit=300)
    given_back_after_our_look(world, stripe, first, second)
    while grants.send_due(house, 10):
        pass
    (made,) = stripe.notes
    assert (made["total"], made["refunds"]) == (300, [])
    assert (world.seen(Step, note).state, sent_of(world)) == ("succeeded", 300)


def test_a_webhook_that_comes_before_the_answer_is_matched_to_the_step(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    engine = gateway.engine(house)

    def tell_first(request: object) -> None:
        if getattr(request, "method", "") == "POST":
            stripe.before_answering = lambda request: None

            def tell() -> None:
                note = next(iter(gateway.connect(house, "").credit_notes(invoice=stripe.notes[0]["invoice"])))
                with world.database.work(OPERATOR) as session:
                    grants.settle_note(session, note, "", engine)

            thread = threading.Thread(target=tell)
            thread.start()
            thread.join()

    stripe.before_answering = tell_first
    grants.send_due(house, 1)
    step = world.seen(Step, step_id)
    assert (step.state, step.stripe_id) == ("succeeded", stripe.notes[0]["id"])
    assert counters(world, step.payment_id) == (0, 1_200)


def test_a_refund_of_another_copy_of_the_program_settles_nothing(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    step_id = world.refund_of(1_200)
    stripe._refund("pi_2_1" if "pi_2_1" in stripe.captured else next(iter(stripe.captured)), 1_200,
                   {"step": str(step_id), "engine": "other"})  # fmt: skip
    fact = gateway.connect(house, "").refund(stripe.refunds[0]["id"])
    with world.database.work(OPERATOR) as session:
        grants.settle(session, fact, "", gateway.engine(house))
    assert world.seen(Step, step_id).state == "approved"


# The table of states


def test_every_transition_leaves_its_evidence(world: Approved, house: House, stripe: SmallStripe) -> None:
    step_id = world.refund_of(1_200)
    stripe.spoil("POST", NOTES, "lost_after")
    grants.send_due(house, 10)
    world.due_now()
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        moves = session.execute(
            sa.select(StepEvent.from_state, StepEvent.to_state)
            .where(StepEvent.step_id == step_id)
            .order_by(StepEvent.seq)
        ).all()
    assert [tuple(move) for move in moves] == [("approved", "sent"), ("sent", "unknown"), ("unknown", "succeeded")]


def test_the_database_holds_the_same_table_of_states(world: Approved) -> None:
    step_id = world.refund_of(1_200)
    full = {"body": "{}", "first_sent_at": sa.func.now(), "stripe_id": "x"}
    for before, allowed in STEP_NEXT.items():
        for after in STEP_NEXT:
            refused = after != before and after not in allowed
            with world.database.engine.connect() as connection:
                connection.execute(sa.text("SELECT set_config('app.operator', 'on', true)"))
                other = sa.insert(Step).values(
                    agency_id=world.agency_id, grant_id=world.seen(Step, step_id).grant_id, no=9, kind="refund",
                    currency="usd", amount=1, state=before, stripe_account="", epoch=0, **full,
                ).returning(Step.id)  # fmt: skip
                made = connection.execute(other).scalar_one()
                change = sa.update(Step).where(Step.id == made).values(state=after)
                if refused:
                    with pytest.raises(IntegrityError, match="a step cannot go"):
                        connection.execute(change)
                else:
                    connection.execute(change)
