"""One grant, then ten, then all; a run that halts itself; and the look at the key before the first."""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from billing.outages import approvals, claims, grants, preflight, queries, ramp
from billing.outages.models import Run, Step
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import AuditEntry
from tests.billing.outages.rows import Approved
from tests.billing.outages.small_stripe import SmallStripe

NOTES = "/v1/credit_notes"


def opened_to(world: Approved, value: int | None) -> None:
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Run).values(opened_to=value))


def the_run(world: Approved) -> Run:
    found: Run = world.seen(Run, "run_1")
    return found


def go_on(world: Approved) -> None:
    with world.database.work(OPERATOR) as session:
        approvals.resume(session, "inc_1", None, "cli")


def test_a_run_begins_with_one_grant_then_ten_then_all(world: Approved, house: House, stripe: SmallStripe) -> None:
    opened_to(world, 1)
    steps = [world.refund_of(100 + i) for i in range(14)]
    begun: list[tuple[int | None, int]] = []

    def note(request: object) -> None:
        if getattr(request, "path", "") == NOTES:
            run = the_run(world)
            begun.append((run.opened_to, run.begun))

    stripe.before_answering = note
    while grants.send_due(house, 10):
        pass
    assert begun == [(1, 1), *((10, n) for n in range(2, 11)), *((None, n) for n in range(11, 15))]
    assert {world.seen(Step, id).state for id in steps} == {"succeeded"}
    assert the_run(world).state == "done"


def test_a_run_that_may_go_on_is_due_work_although_nobody_rings(
    world: Approved, house: House, stripe: SmallStripe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sent the first grant died before looking whether the run may be opened further."""
    opened_to(world, 1)
    for i in range(2):
        world.refund_of(100 + i)
    with monkeypatch.context() as dying:
        dying.setattr(ramp, "review", lambda session: False)
        grants.send_due(house, 1)
    assert (len(stripe.refunds), the_run(world).opened_to) == (1, 1)
    assert (world.due_in() or timedelta(1)) <= timedelta(0)
    grants.send_due(house, 10)
    assert len(stripe.refunds) == 2
    assert world.due_in() is None


def test_while_the_first_is_unknown_no_second_begins(world: Approved, house: House, stripe: SmallStripe) -> None:
    opened_to(world, 1)
    for i in range(3):
        world.refund_of(100 + i)
    stripe.spoil("POST", NOTES, "lost_before")
    grants.send_due(house, 10)
    assert grants.send_due(house, 10) == 0
    assert len(stripe.posts(NOTES)) == 1
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Step).where(Step.state == "unknown").values(due_at=sa.func.now()))
    while grants.send_due(house, 10):
        pass
    assert len(stripe.refunds) == 3


def test_workers_that_race_for_the_first_grant_begin_one(world: Approved, house: House, stripe: SmallStripe) -> None:
    """Both have claimed a step while none had begun: the count in the attempt's own transaction decides."""
    opened_to(world, 1)
    first, second = world.refund_of(100), world.refund_of(200)
    with world.database.work(OPERATOR) as session:
        claimed = [grants.claims.claim(session) for _ in range(2)]
    assert all(claimed)
    for claim in claimed:
        grants._carry_on(house, claim)  # type: ignore[arg-type]
    assert len(stripe.posts(NOTES)) == 1
    assert sorted(world.seen(Step, id).state for id in (first, second)) == ["approved", "succeeded"]
    assert the_run(world).begun == 1
    world.due_now()
    while grants.send_due(house, 10):
        pass
    assert len(stripe.refunds) == 2


def test_what_falls_back_after_the_first_and_only_grant_is_sent(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """Another worker called the run done before anybody had opened it further; weeks later its refund came back."""
    world.refund_of(100)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Run).values(opened_to=1, begun=1, state="done"))
    while grants.send_due(house, 10):
        pass
    assert len(stripe.refunds) == 1
    assert (the_run(world).state, the_run(world).opened_to) == ("done", 10)


def test_of_a_run_that_is_not_opened_further_what_was_begun_goes_on(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    first, waiting = world.refund_of(100), world.refund_of(200)
    with world.database.work(OPERATOR) as session:
        grant = session.scalars(sa.select(Step.grant_id).where(Step.id == first)).one()
        session.execute(sa.update(Run).values(opened_to=1, begun=1))
        # The first was refused for a dispute that is over: it is sent again.
        session.execute(sa.update(Step).where(Step.id == first).values(first_sent_at=sa.func.now()))
        claim = claims.claim(session)
        assert (claim.step.id if claim else None) == first
        # The first is done, and its grant's other step is to follow; the one that waits is left out all the same.
        session.execute(sa.update(Step).where(Step.id == first).values(state="sent", body=""))
        session.execute(sa.update(Step).where(Step.id == first).values(state="succeeded", stripe_id="cn_1"))
        session.execute(sa.update(Step).where(Step.id == waiting).values(grant_id=grant, no=2))
        claim = claims.claim(session)
        assert (claim.step.id if claim else None) == waiting
        session.rollback()


@pytest.mark.parametrize(
    ("begun", "failed", "unknown", "ramping", "halts"),
    [
        (250, 5, 0, False, False),  # 2 % exactly
        (249, 5, 0, False, True),
        (10, 4, 0, False, False),  # too few to say anything
        (300, 0, 3, False, False),  # 1 % exactly
        (299, 0, 3, False, True),
        (10, 0, 2, False, False),
        (1, 0, 1, True, True),  # the very first
        (10, 5, 0, True, True),
    ],
)
def test_when_a_run_halts_itself(begun: int, failed: int, unknown: int, ramping: bool, halts: bool) -> None:
    assert (ramp.why_halt(begun, failed, unknown, 1 if ramping else None) is not None) is halts


def test_a_run_of_which_too_many_fail_halts_itself_says_why_and_ends_when_continued(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    for i in range(12):
        world.refund_of(100 + i)
    stripe.spoil("POST", NOTES, *["refused:parameter_invalid"] * 5)
    grants.send_due(house, 6)
    run = the_run(world)
    assert (run.state, run.begun) == ("halted", 6)
    assert run.halt_reason == "5 of 6 refunds failed: more than 2 %."
    assert grants.send_due(house, 10) == 0
    with world.database.work(OPERATOR) as session:
        shown = queries.shown(session, "inc_1")
        assert shown["halted"] is True
        assert f"  run 1 for acme halted itself: {run.halt_reason}" in queries.in_words(shown)
        assert "run.halted_itself" in session.scalars(sa.select(AuditEntry.action)).all()
    go_on(world)
    while grants.send_due(house, 10):
        pass
    assert (the_run(world).state, the_run(world).begun, the_run(world).halt_reason) == ("done", 12, None)
    assert len(stripe.refunds) == 7


def test_what_stays_unknown_halts_its_run_and_what_was_just_asked_does_not(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    for i in range(10):
        world.refund_of(100 + i)
    stripe.spoil("POST", NOTES, *["lost_before"] * 3)
    grants.send_due(house, 6)
    assert the_run(world).state == "running"
    with world.database.work(OPERATOR) as session:
        long_ago = Step.first_sent_at - ramp.STAYS_UNKNOWN - timedelta(seconds=1)
        session.execute(sa.update(Step).where(Step.state == "unknown").values(first_sent_at=long_ago))
    grants.send_due(house, 1)
    assert the_run(world).state == "halted"
    assert (the_run(world).halt_reason or "").startswith("Of 3 of 7 refunds Stripe does not say")


# Before the first grant


def test_nothing_is_sent_before_the_preflight_and_one_grant_after_it(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    opened_to(world, 0)
    world.refund_of(1_200)
    world.refund_of(700)
    assert grants.send_due(house, 10) == 0
    assert preflight.look_due(house, 10) == 1
    assert (the_run(world).state, the_run(world).opened_to) == ("running", 1)
    assert not [request for request in stripe.sent if request.method == "POST"]  # it only reads
    while grants.send_due(house, 10):
        pass
    assert len(stripe.refunds) == 2


@pytest.mark.parametrize("wrong", ["mode", "invoice", "scope"])
def test_a_key_that_cannot_do_it_halts_the_run_before_anything_is_sent(
    world: Approved, house: House, stripe: SmallStripe, wrong: str
) -> None:
    opened_to(world, 0)
    step = world.refund_of(1_200)
    if wrong == "mode":
        stripe.livemode = True
    elif wrong == "invoice":
        stripe.invoices.clear()
    else:
        stripe.spoil("GET", "/v1/refunds", "locked_out")
    preflight.look_due(house, 10)
    assert the_run(world).state == "halted"
    assert (the_run(world).halt_reason or "").startswith("Before anything was sent: ")
    go_on(world)  # it is looked at again, and halts again where nothing has changed
    assert grants.send_due(house, 10) == 0
    assert preflight.look_due(house, 10) == 1
    assert the_run(world).state == ("running" if wrong == "scope" else "halted")
    assert world.seen(Step, step).state == "approved"


def test_where_stripe_does_not_answer_the_preflight_is_made_later(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    opened_to(world, 0)
    world.refund_of(1_200)
    stripe.spoil("GET", "/v1/balance", *["unstored_500"] * 3)
    preflight.look_due(house, 10)
    assert (the_run(world).state, the_run(world).opened_to) == ("running", 0)
    assert preflight.look_due(house, 10) == 0
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Run).values(look_at=sa.func.now()))
    preflight.look_due(house, 10)
    assert the_run(world).opened_to == 1
