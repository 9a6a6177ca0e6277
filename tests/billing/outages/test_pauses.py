"""Hold, read back, release: whose pause it is, and who may lift it."""

import threading
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pytest
import sqlalchemy as sa

from billing import gateway
from billing.outages import grants, pauses, reconcile, switch
from billing.outages.models import HeldInvoice, Incident, Pause, Run
from billing.writes import Writes
from tenants.db import OPERATOR
from tenants.house import House
from tests.billing.outages.rows import DECLARED, STARTED, Approved
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.wire import Request


class Died(BaseException):
    """As if the power had failed here."""


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


def second_incident(world: Approved, no: int = 2) -> str:
    with world.database.work(OPERATOR) as session:
        first = session.get_one(Incident, "inc_1")
        session.add(
            Incident(
                id=f"inc_{no}", platform_id=first.platform_id + no - 1, title="", state="declared", started_at=STARTED,
                impact_bp=10_000, declared_by=first.declared_by, declared_at=DECLARED, promise_at=DECLARED,
            )
        )  # fmt: skip
    return f"inc_{no}"


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


@pytest.mark.parametrize("scope", ["", "everything", "incident:inc_1", "account:"])
def test_while_sending_is_halted_nothing_is_held_or_released(
    world: Approved, house: House, stripe: SmallStripe, scope: str
) -> None:
    subscription, releasing = paused(world)
    pauses.hold_due(house, 10)
    _, planned = paused(world)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Pause).where(Pause.id == releasing).values(state="releasing"))
        switch.turn(session, scope, "halted", "x", sending=False)
    before = len(stripe.sent)
    assert pauses.hold_due(house, 10) == pauses.release_due(house, 10) == 0
    assert len(stripe.sent) == before
    with world.database.work(OPERATOR) as session:
        switch.turn(session, scope, "continued", "x", sending=True)
    assert pauses.hold_due(house, 10) == pauses.release_due(house, 10) == 1
    assert [world.seen(Pause, id).state for id in (planned, releasing)] == ["held", "released"]
    assert stripe.subscriptions[subscription]["pause_collection"] is None


@pytest.mark.parametrize("state", ["planned", "releasing"])
def test_what_stripe_refuses_to_show_is_for_a_person_and_holds_up_no_other(
    world: Approved, house: House, stripe: SmallStripe, state: str
) -> None:
    refused, pause_id = paused(world)
    other, _ = paused(world)
    if state == "releasing":
        pauses.hold_due(house, 10)
        with world.database.work(OPERATOR) as session:
            session.execute(sa.update(Pause).values(state=state))
    stripe.spoil("GET", f"/v1/subscriptions/{refused}", "refused")
    assert pauses.hold_due(house, 10) + pauses.release_due(house, 10) == 2
    pause = world.seen(Pause, pause_id)
    assert (pause.state, pause.reason) == ("needs_person", "Stripe refuses to read the subscription: told so")
    behavior = {"planned": {"behavior": "keep_as_draft", "resumes_at": None}, "releasing": None}[state]
    assert stripe.subscriptions[other]["pause_collection"] == behavior


@pytest.mark.parametrize("state", ["planned", "releasing"])
def test_what_is_halted_between_the_look_and_the_call_is_not_called(
    world: Approved, house: House, stripe: SmallStripe, state: str
) -> None:
    subscription, pause_id = paused(world)
    if state == "releasing":
        pauses.hold_due(house, 10)
        with world.database.work(OPERATOR) as session:
            session.execute(sa.update(Pause).values(state=state))

    def halt(request: object) -> None:
        with world.database.work(OPERATOR) as session:
            switch.turn(session, switch.EVERYTHING, "halted", "x", sending=False)

    before = len(stripe.posts(f"/v1/subscriptions/{subscription}"))
    stripe.before_answering = halt
    pauses.hold_due(house, 10)
    pauses.release_due(house, 10)
    assert len(stripe.posts(f"/v1/subscriptions/{subscription}")) == before
    assert world.seen(Pause, pause_id).state == state


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


# Where the agency says otherwise between two incidents: the hold that stands the longest decides


def held_by(world: Approved, house: House, *behaviors: str) -> tuple[str, list[int]]:
    """A subscription that one incident after the other holds, each as the agency then wanted it: its id, the pauses."""
    subscription, first = paused(world, behavior=behaviors[0])
    pauses.hold_due(house, 10)
    found = [first]
    for no, behavior in enumerate(behaviors[1:], 2):
        incident = second_incident(world, no)
        with world.database.work(OPERATOR) as session:
            n = int(subscription.removeprefix("sub_"))
            found.append(world.pause(session, n, incident_id=incident, behavior=behavior).id)
        pauses.hold_due(house, 10)
    assert [world.seen(Pause, id).state for id in found] == ["held"] * len(behaviors)
    return subscription, found


def in_stripe(stripe: SmallStripe, subscription: str) -> tuple[str | None, str | None]:
    """How renewals are held there, and for which incident."""
    found = stripe.subscriptions[subscription]
    return (found["pause_collection"] or {}).get("behavior"), found["metadata"].get("incident")


def differences(house: House, *incidents: str) -> list[str]:
    return [one.sentence() for id in incidents for one in reconcile.reconcile(house, id).differences]


@pytest.mark.parametrize("spoiled", [(), ("limited",), ("lost_before",), ("lost_after",), ("refused:locked",)])
def test_a_hold_that_lets_go_hands_over_to_the_one_that_has_stood_the_longest_then(
    world: Approved, house: House, stripe: SmallStripe, spoiled: tuple[str, ...]
) -> None:
    subscription, (first, second, third) = held_by(world, house, "keep_as_draft", "void", "keep_as_draft")
    assert in_stripe(stripe, subscription) == ("keep_as_draft", "inc_1")
    assert differences(house, "inc_1", "inc_2", "inc_3") == []
    resolve(world)
    stripe.spoil("POST", f"/v1/subscriptions/{subscription}", *spoiled)
    for _ in range(2):
        pauses.release_due(house, 10)
        world.due_now()
    assert [world.seen(Pause, id).state for id in (first, second, third)] == ["released", "held", "held"]
    assert in_stripe(stripe, subscription) == ("void", "inc_2")
    assert len(stripe.posts(f"/v1/subscriptions/{subscription}")) == 2 + (spoiled not in ((), ("lost_after",)))
    assert differences(house, "inc_1", "inc_2", "inc_3") == []
    resolve(world, "inc_2")
    pauses.release_due(house, 10)
    assert in_stripe(stripe, subscription) == ("keep_as_draft", "inc_3")
    resolve(world, "inc_3")
    pauses.release_due(house, 10)
    assert in_stripe(stripe, subscription) == (None, None)
    assert differences(house, "inc_1", "inc_2", "inc_3") == []


def test_a_hold_that_stood_less_long_lets_go_without_a_word_to_stripe(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, (_, second) = held_by(world, house, "keep_as_draft", "void")
    resolve(world, "inc_2")
    pauses.release_due(house, 10)
    assert world.seen(Pause, second).state == "released"
    assert in_stripe(stripe, subscription) == ("keep_as_draft", "inc_1")
    assert len(stripe.posts(f"/v1/subscriptions/{subscription}")) == 1
    assert differences(house, "inc_1", "inc_2") == []


def test_holds_that_agree_hand_over_without_a_word_to_stripe(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, (first, _) = held_by(world, house, "void", "void")
    resolve(world)
    before = len(stripe.sent)
    pauses.release_due(house, 10)
    assert (world.seen(Pause, first).state, len(stripe.sent)) == ("released", before)
    assert in_stripe(stripe, subscription) == ("void", "inc_1")
    assert differences(house, "inc_1", "inc_2") == []


def test_a_pause_that_is_not_as_the_longest_standing_hold_has_it_is_a_difference_once(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, _ = held_by(world, house, "keep_as_draft", "void")
    stripe.subscriptions[subscription]["pause_collection"] = {"behavior": "void", "resumes_at": None}
    said = [f"Subscription {subscription}: we have held, keep_as_draft, Stripe has void."]
    assert (differences(house, "inc_1"), differences(house, "inc_2")) == (said, [])
    assert [one.sentence() for one in reconcile.of_all(house, STARTED, "daily").differences] == said
    stripe.subscriptions[subscription]["pause_collection"] = None
    assert differences(house, "inc_2") == [f"Subscription {subscription}: we have held, Stripe has billing runs."]


def test_a_hold_decides_at_once_where_another_that_may_be_in_stripe_is_to_end(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, first = paused(world)
    stripe.spoil("POST", f"/v1/subscriptions/{subscription}", "lost_after")
    pauses.hold_due(house, 10)
    resolve(world)
    other = second_incident(world)
    with world.database.work(OPERATOR) as session:
        pauses.release_settled(session)
        switch.turn(session, "incident:inc_1", "halted", "x", sending=False)
        n = int(subscription.removeprefix("sub_"))
        world.pause(session, n, incident_id=other, behavior="void")
    pauses.hold_due(house, 10)
    pauses.release_due(house, 10)
    assert (world.seen(Pause, first).state, in_stripe(stripe, subscription)) == ("releasing", ("void", "inc_2"))
    assert differences(house, "inc_1", "inc_2") == []


def test_nobody_elses_pause_is_handed_over(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, (first, _) = held_by(world, house, "keep_as_draft", "void")
    theirs = {"behavior": "mark_uncollectible", "resumes_at": None}
    stripe.subscriptions[subscription].update(pause_collection=theirs, metadata={})
    resolve(world)
    pauses.release_due(house, 10)
    assert world.seen(Pause, first).state == "released"
    assert in_stripe(stripe, subscription) == ("mark_uncollectible", None)


def test_a_subscription_that_is_gone_is_not_handed_over(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, (first, _) = held_by(world, house, "keep_as_draft", "void")
    del stripe.subscriptions[subscription]
    resolve(world)
    pauses.release_due(house, 10)
    assert world.seen(Pause, first).state == "released"


def test_what_stripe_does_not_show_is_handed_over_later(world: Approved, house: House, stripe: SmallStripe) -> None:
    subscription, (first, _) = held_by(world, house, "keep_as_draft", "void")
    resolve(world)
    stripe.spoil("GET", f"/v1/subscriptions/{subscription}", *["failed_before"] * 3)  # a look is tried three times
    pauses.release_due(house, 10)
    assert world.seen(Pause, first).state == "releasing"
    world.due_now()
    pauses.release_due(house, 10)
    assert (world.seen(Pause, first).state, in_stripe(stripe, subscription)) == ("released", ("void", "inc_2"))


@pytest.mark.parametrize("moment", ["before it lets go", "while it lets go"])
def test_a_hold_that_begins_as_the_only_other_one_ends_decides_by_itself(
    world: Approved, house: House, stripe: SmallStripe, moment: str
) -> None:
    subscription, _ = paused(world)
    pauses.hold_due(house, 10)
    other = second_incident(world)
    with world.database.work(OPERATOR) as session:
        n = int(subscription.removeprefix("sub_"))
        second = world.pause(session, n, incident_id=other, behavior="void", due_at=datetime.now(UTC)).id
    resolve(world)
    with world.database.work(OPERATOR) as session:
        pauses.release_settled(session)
    steps = [pauses.hold_due, pauses.release_due]
    for work in steps if moment == "before it lets go" else reversed(steps):
        world.due_now()
        work(house, 10)
    assert (world.seen(Pause, second).state, in_stripe(stripe, subscription)) == ("held", ("void", "inc_2"))
    assert differences(house, "inc_1", "inc_2") == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_whoever_dies_while_handing_over_leaves_it_to_the_next(
    world: Approved, house: House, stripe: SmallStripe, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    subscription, (first, _) = held_by(world, house, "keep_as_draft", "void")
    resolve(world)
    pause = Writes.pause

    def dies(self: Writes, *told: str, key: str) -> NoReturn:
        monkeypatch.undo()
        if moment == "after":
            pause(self, *told, key=key)
        raise Died

    monkeypatch.setattr(Writes, "pause", dies)
    with pytest.raises(Died):
        pauses.release_due(house, 10)
    assert world.seen(Pause, first).state == "releasing"
    with world.database.work(OPERATOR) as session:  # the lease of whoever died runs out
        session.execute(sa.update(Pause).values(lease_until=sa.func.now()))
    world.due_now()
    pauses.release_due(house, 10)
    assert (world.seen(Pause, first).state, in_stripe(stripe, subscription)) == ("released", ("void", "inc_2"))
    assert len(stripe.posts(f"/v1/subscriptions/{subscription}")) == 2
    assert differences(house, "inc_1", "inc_2") == []


def test_what_is_halted_before_it_is_handed_over_is_not_handed_over(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, (first, _) = held_by(world, house, "keep_as_draft", "void")
    resolve(world)

    def halt(request: object) -> None:
        with world.database.work(OPERATOR) as session:
            switch.turn(session, switch.EVERYTHING, "halted", "x", sending=False)

    stripe.before_answering = halt
    pauses.release_due(house, 10)
    stripe.before_answering = lambda request: None
    assert world.seen(Pause, first).state == "releasing"
    assert in_stripe(stripe, subscription) == ("keep_as_draft", "inc_1")
    assert differences(house, "inc_1", "inc_2") == []  # what stands the longest is to be let go still
    stripe.subscriptions[subscription]["pause_collection"] = None
    said = [f"Subscription {subscription}: we have held, Stripe has billing runs."]
    assert [one.sentence() for one in reconcile.of_all(house, STARTED, "daily").differences] == said


def test_what_is_reopened_while_it_is_handed_over_stands_last_from_then_on(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, (first, second) = held_by(world, house, "keep_as_draft", "void")
    resolve(world)

    def reopen(request: Request) -> None:
        if request.method == "POST":
            stripe.before_answering = lambda request: None
            with world.database.work(OPERATOR) as session:
                incident = session.get_one(Incident, "inc_1")
                incident.state, incident.ended_at = "declared", None
                session.execute(sa.update(Pause).where(Pause.id == first).values(state="planned"))

    stripe.before_answering = reopen
    pauses.release_due(house, 10)
    world.due_now()
    pauses.hold_due(house, 10)
    assert [world.seen(Pause, id).state for id in (first, second)] == ["held", "held"]
    assert in_stripe(stripe, subscription) == ("void", "inc_2")
    assert differences(house, "inc_1", "inc_2") == []
    resolve(world, "inc_2")
    pauses.release_due(house, 10)
    assert in_stripe(stripe, subscription) == ("keep_as_draft", "inc_1")


def test_what_was_left_to_an_incident_that_ended_before_it_held_is_lifted(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """The first lets go because the second is to hold on; the second ends before any worker has come to that."""
    subscription, first = paused(world)
    pauses.hold_due(house, 10)
    other = second_incident(world)
    with world.database.work(OPERATOR) as session:
        n = int(subscription.split("_")[1])
        second = world.pause(session, n, incident_id=other, due_at=DECLARED + timedelta(days=36_500)).id
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
    pause = world.seen(Pause, pause_id)  # Stripe keeps it for good on what has ended: it was nobody else's
    assert (pause.state, pause.reason) == ("released", "The subscription had ended.")
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


@pytest.mark.parametrize(("state", "method"), [("planned", "GET"), ("planned", "POST"), ("releasing", "GET")])
def test_what_stripe_does_not_answer_about_for_a_day_is_done_within_minutes_of_its_coming_back(
    world: Approved, house: House, stripe: SmallStripe, state: str, method: str
) -> None:
    """It was asked often, while nobody was let in: by then the next renewal may be an hour away."""
    subscription, pause_id = paused(world, state, attempt_no=20)
    if state == "releasing":
        resolve(world)
    stripe.spoil(
        method, f"/v1/subscriptions/{subscription}", *["lost_before" if method == "POST" else "down"] * 3
    )  # a read is tried thrice
    work = {"planned": pauses.hold_due, "releasing": pauses.release_due}[state]
    work(house, 1)
    with world.database.work(OPERATOR) as session:
        wait = session.scalars(sa.select(Pause.due_at - sa.func.now()).where(Pause.id == pause_id)).one()
    assert world.seen(Pause, pause_id).state == state
    assert timedelta(0) < wait <= timedelta(minutes=2)


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


def test_a_pause_that_somebody_lifted_ends_with_its_incident_and_its_drafts_are_handed_over(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, pause_id = paused(world)
    pauses.hold_due(house, 10)
    with world.database.work(OPERATOR) as session:
        n = int(subscription.removeprefix("sub_"))
        draft = world.invoice(session, n, 5_800, (), status="draft")
    stripe.invoices[draft].update(billing_reason="subscription_cycle", created=int(DECLARED.timestamp()) + 3_600)
    stripe.subscriptions[subscription]["pause_collection"] = None
    fact = gateway.connect(house, "").subscription(subscription)
    with world.database.work(OPERATOR) as session:
        pauses.confirm(session, fact, datetime.now(UTC) + timedelta(seconds=1))
    assert pauses.release_due(house, 10) == 0  # its incident goes on
    resolve(world)
    assert pauses.release_due(house, 10) == 1
    pause = world.seen(Pause, pause_id)
    assert (pause.state, pause.released_at is not None) == ("released", True)
    assert stripe.subscriptions[subscription]["pause_collection"] is None
    assert len(stripe.posts(f"/v1/subscriptions/{subscription}")) == 1  # nothing but the hold
    with world.database.work(OPERATOR) as session:
        assert session.scalars(sa.select(HeldInvoice.invoice_id)).all() == [draft]


def test_of_a_retracted_incident_one_silent_call_holds_up_no_release(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    """What may have been sent is looked for until its key is dead; nobody else's renewals wait for that."""
    subscription, pause_id = paused(world)
    pauses.hold_due(house, 10)
    world.refund_of(1_200)
    stripe.spoil("POST", "/v1/credit_notes", "lost_before")
    grants.send_due(house, 10)
    with world.database.work(OPERATOR) as session:
        session.get_one(Incident, "inc_1").state = "retracted"
    assert world.seen(Run, "run_1").state == "running"
    assert pauses.release_due(house, 10) == 1
    assert world.seen(Pause, pause_id).state == "released"
    assert stripe.subscriptions[subscription]["pause_collection"] is None


def test_a_release_that_stripe_refuses_is_for_a_person_and_tried_again_each_day(
    world: Approved, house: House, stripe: SmallStripe
) -> None:
    subscription, pause_id = paused(world)
    pauses.hold_due(house, 10)
    resolve(world)
    stripe.spoil("POST", f"/v1/subscriptions/{subscription}", "refused:resource_locked")
    assert pauses.release_due(house, 10) == 1
    assert world.seen(Pause, pause_id).state == "needs_person"
    assert pauses.release_due(house, 10) == 0
    due_in = world.due_in()
    assert due_in is not None
    assert timedelta(hours=23) < due_in <= timedelta(days=1)  # whoever looks will see it then
    world.due_now()
    assert pauses.release_due(house, 10) == 1
    assert world.seen(Pause, pause_id).state == "released"
    assert stripe.subscriptions[subscription]["pause_collection"] is None


@pytest.mark.parametrize("state", ["planned", "held"])
def test_a_pause_whose_incident_is_over_is_due_work_although_nobody_rings(
    world: Approved, house: House, state: str
) -> None:
    in_a_while = datetime.now(UTC) + timedelta(hours=1)
    _, pause_id = paused(world, state, due_at=in_a_while)
    with world.database.work(OPERATOR) as session:
        session.execute(sa.update(Run).values(state="done"))
    assert (world.due_in() or timedelta(1)) > timedelta(0)
    resolve(world)
    assert (world.due_in() or timedelta(1)) <= timedelta(0)
    pauses.release_due(house, 10)
    assert world.seen(Pause, pause_id).state in ("cancelled", "released")
    assert world.due_in() is None


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
