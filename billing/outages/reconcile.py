"""Our books against Stripe's, object by object, in both directions. Reads only; every difference is shown."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import gateway
from billing.answers import LockedOut
from billing.errors import Conflict, NotFound
from billing.facts import BalanceEntryFact, CreditNoteFact, RefundFact, SubscriptionFact
from billing.models import SyncCursor
from billing.money import Money, plain
from billing.outages import strays
from billing.outages.fates import ALIVE
from billing.outages.holds import leading
from billing.outages.models import Grant, HeldInvoice, Incident, Pause, Step
from billing.reads import INVOICE, SUBSCRIPTION
from billing.rows import step_of
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Agency

Object = CreditNoteFact | RefundFact | BalanceEntryFact
SLACK = timedelta(hours=1)
"""Objects are looked for from this long before the declaration, or before the first sending of any step: Stripe has a
clock of its own."""
REFUND_AS_STEP = {
    "succeeded": "succeeded",
    "pending": "pending",
    "requires_action": "pending",
    "failed": "failed",
    "canceled": "failed",
}
_STEPS = sa.select(Step, Grant).join(Grant, sa.and_(Grant.agency_id == Step.agency_id, Grant.id == Step.grant_id))
MADE = ("succeeded", "pending", "failed")
UNDER_WAY = ("sent", "unknown")


@dataclass(frozen=True)
class Difference:
    """One object on which the two sides do not agree, each in its own words. `id` is the object's in Stripe, where it
    has one there; for `invoices` nothing more is given by itself until a person has looked."""

    object: str
    ours: str
    theirs: str
    id: str = ""
    invoices: frozenset[str] = frozenset()

    def sentence(self) -> str:
        return f"{self.object}: we have {self.ours}, Stripe has {self.theirs}."

    def to_json(self) -> dict[str, Any]:
        return {"object": self.object, "ours": self.ours, "theirs": self.theirs, "invoices": sorted(self.invoices)}


@dataclass(frozen=True)
class Report:
    """How many objects of each kind were compared, where the sides differ, and how much of the money that Stripe says
    went back our books explain: by currency, (all of it, what is explained)."""

    scope: str
    checked: Counter[str]
    differences: list[Difference] = field(default_factory=list)
    value: dict[str, tuple[int, int]] = field(default_factory=dict)

    def explained(self) -> list[dict[str, Any]]:
        return [
            {"currency": currency, "amount": whole, "explained": explained}
            for currency, (whole, explained) in sorted(self.value.items())
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "incident": self.scope,
            "checked": dict(self.checked),
            "differences": [difference.to_json() for difference in self.differences],
            "explained": self.explained(),
        }

    def in_words(self) -> list[str]:
        counted = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in self.checked.items())
        explained = [
            f"{plain(Money(one['explained'], one['currency']))} of the {plain(Money(one['amount'], one['currency']))}"
            " that went back are explained."
            for one in self.explained()
        ]
        if not self.differences:
            return [f"Our books and Stripe's agree: {counted}.", *explained]
        told = [one.sentence() for one in self.differences]
        return [f"{len(self.differences)} differences in {counted}:", *told, *explained]


class DoesNotAgree(Conflict):
    """The two books differ: look at each difference."""

    code = "does_not_agree"

    def __init__(self, report: Report) -> None:
        super().__init__("\n".join(report.in_words()))
        self.report = report


@dataclass
class _Books:
    """What our rows say about one incident in one Stripe account."""

    steps: list[tuple[Step, Grant]] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    leading: set[int] = field(default_factory=set)
    """Those of the pauses by which Stripe goes: the others may hold renewals in another way."""
    released: set[str] = field(default_factory=set)
    expected_drafts: set[str] = field(default_factory=set)
    incidents: frozenset[str] = frozenset()


def reconcile(house: House, incident_id: str) -> Report:
    """Compare every step and pause of one incident with what Stripe lists. Raises `NotFound`, `Unavailable`."""
    with house.database.work(OPERATOR) as session:
        incident = session.get(Incident, incident_id)
        if incident is None:
            raise NotFound(f"There is no incident {incident_id}.")
        since = incident.declared_at - SLACK
        books = _our_books(session, incident_id, since)
    return _compared(house, incident_id, incident_id, books, since)


def of_all(house: House, since: datetime, scope: str) -> Report:
    """As `reconcile` for all incidents together, and for whatever else says it is ours, made after `since`."""
    with house.database.work(OPERATOR) as session:
        books = _our_books(session, None, since)
        for account in session.scalars(sa.select(SyncCursor.stripe_account)):
            books[account]  # one where we never did anything may have something that says it is ours, too
    return _compared(house, scope, None, books, since)


def _compared(
    house: House, scope: str, incident_id: str | None, books: Mapping[str, "_Books"], since: datetime
) -> Report:
    report = Report(scope, Counter({"credit_notes": 0, "refunds": 0, "balance_entries": 0, "pauses": 0}))
    for account, ours in sorted(books.items()):
        try:
            _compare_account(house, account, incident_id, ours, since, report)
        except LockedOut as refusal:
            if not account:
                raise
            report.differences.append(Difference(f"Account {account}", "something there", f"no access: {refusal}"))
    return report


def _compare_account(
    house: House, account: str, incident_id: str | None, ours: "_Books", since: datetime, report: Report
) -> None:
    """Add to the report what is in one Stripe account. Raises `LockedOut` where we may not look, before adding."""
    connection = gateway.connect(house, account)
    theirs: dict[str, list[Object]] = defaultdict(list)
    earlier = since if incident_id else since - SLACK
    listed: list[Object] = [
        *connection.credit_notes(created_since=earlier),
        *connection.refunds(created_since=earlier),
        *_balance_entries(connection, ours),
    ]
    refunds = {thing.id: thing for thing in listed if isinstance(thing, RefundFact)}
    for thing in listed:
        if thing.metadata.get("engine") == gateway.engine(house) and (
            incident_id in (None, thing.metadata.get("incident"))
        ):
            theirs[thing.metadata.get("step", "")].append(thing)
    judged = [thing for found in theirs.values() for thing in found]
    if incident_id is None:
        judged = [thing for thing in listed if thing.created_at >= since]
        _add_older_steps(house, account, ours, theirs, since)
    found = [*_steps_differ(ours, theirs, refunds, report.checked), *_voids_differ(connection, ours, report.checked)]
    found += [*_pauses_differ(ours, connection.every(SUBSCRIPTION), report.checked)]
    found += [*_drafts_left(connection, ours)]
    _add_value(report.value, judged, {one.id for one in found})
    report.differences.extend(_with_invoices(house, connection, one, refunds) for one in found)


def _add_older_steps(
    house: House, account: str, ours: "_Books", theirs: dict[str, list[Object]], since: datetime
) -> None:
    """What was made after `since` may be of a step that was first sent before; what was not is no matter of ours."""
    known = {str(step.id) for step, _ in ours.steps}
    for step_id in theirs.keys() - known:
        if all(thing.created_at < since for thing in theirs[step_id]):
            del theirs[step_id]
    named = {step_of(thing.metadata, gateway.engine(house)) for id in theirs.keys() - known for thing in theirs[id]}
    with house.database.work(OPERATOR) as session:
        older = _STEPS.where(Step.id.in_(named - {None}), Step.stripe_account == account)
        ours.steps.extend((step, grant) for step, grant in session.execute(older))


def _add_value(value: dict[str, tuple[int, int]], judged: Iterable[Object], odd: set[str]) -> None:
    """A note's refund counts with its note, and any other by itself."""
    things = list(judged)
    noted = {id for thing in things if isinstance(thing, CreditNoteFact) for id, _ in thing.refunds}
    for thing in things:
        if thing.id not in noted:
            amount = thing.total if isinstance(thing, CreditNoteFact) else abs(thing.amount)
            whole, explained = value.get(thing.currency, (0, 0))
            value[thing.currency] = (whole + amount, explained + (0 if thing.id in odd else amount))


def _with_invoices(
    house: House, connection: gateway.Gateway, one: Difference, refunds: Mapping[str, RefundFact]
) -> Difference:
    """What a refund is of, as far as it can be told, beside what its step is of; a note says so itself."""
    if one.id not in refunds:
        return one
    refund = refunds[one.id]
    with house.database.work(OPERATOR) as session:
        known = frozenset(invoice_id for _, invoice_id in strays.invoices_of(session, refund))
    if not known and refund.payment_intent:
        known = frozenset(paid.invoice_id for paid in connection.invoices_paid_by(refund.payment_intent))
    return replace(one, invoices=one.invoices | known)


def _our_books(session: Session, incident_id: str | None, since: datetime) -> dict[str, _Books]:
    """By Stripe account; None: of all incidents, and of steps only those that were sent after `since` or not yet."""
    books: dict[str, _Books] = defaultdict(_Books)
    steps = _STEPS
    pauses = sa.select(Pause, sa.func.coalesce(Agency.stripe_account, "")).join(Agency, Agency.id == Pause.agency_id)
    holding = Pause.state.in_(("planned", "held", "releasing", "needs_person"))
    held_elsewhere = sa.select(Pause.subscription_id).where(holding)
    if incident_id is not None:
        steps, pauses = steps.where(Grant.incident_id == incident_id), pauses.where(Pause.incident_id == incident_id)
        held_elsewhere = held_elsewhere.where(Pause.incident_id != incident_id)
    else:
        steps = steps.where(sa.or_(Step.first_sent_at.is_(None), Step.first_sent_at >= since))
    for step, grant in session.execute(steps):
        books[step.stripe_account].steps.append((step, grant))
    elsewhere = set(session.scalars(held_elsewhere))
    leads = set(session.scalars(leading()))
    for pause, account in session.execute(pauses):
        books[account].pauses.append(pause)
        books[account].leading |= leads & {pause.id}
        if pause.state == "released" and pause.subscription_id not in elsewhere:
            books[account].released.add(pause.subscription_id)
    waiting = sa.select(HeldInvoice.invoice_id).where(HeldInvoice.state.in_(("planned", "held", "needs_person")))
    expected = set(session.scalars(waiting))
    incidents = frozenset(session.scalars(sa.select(Incident.id))) if incident_id is None else {incident_id}
    for ours in books.values():
        ours.expected_drafts, ours.incidents = expected, frozenset(incidents)
    return books


def _balance_entries(connection: gateway.Gateway, ours: _Books) -> Iterator[BalanceEntryFact]:
    for customer in sorted({grant.customer_id for step, grant in ours.steps if step.kind == "balance"}):
        yield from connection.balance_entries(customer)


def _steps_differ(
    ours: _Books,
    theirs: dict[str, list[Object]],
    refunds: Mapping[str, RefundFact],
    checked: Counter[str],
) -> Iterator[Difference]:
    for step, grant in ours.steps:
        if step.kind == "void":
            continue
        found = theirs.pop(str(step.id), [])
        of_note = [thing for thing in found if step.kind == "credit_note" and isinstance(thing, RefundFact)]
        # A note's own refund may carry the note's metadata too: it is looked at with its note.
        found = [thing for thing in found if thing not in of_note]
        checked[{"credit_note": "credit_notes", "refund": "refunds"}.get(step.kind, "balance_entries")] += len(found)
        name, touched = f"Step {step.id} ({step.kind})", frozenset([grant.invoice_id])
        noted = {id for thing in found if isinstance(thing, CreditNoteFact) for id, _ in thing.refunds}
        for alone in of_note:
            if alone.id not in noted:
                yield Difference(name, "one note", f"a refund of its own, {alone.id}", alone.id, touched)
        if len(found) > 1:
            for thing in found:
                if thing.id != step.stripe_id:
                    yield Difference(name, str(step.stripe_id or "one object"), f"{thing.id}, too", thing.id, touched)
        if not found:
            if step.state in MADE and step.stripe_id:
                yield Difference(name, f"{step.stripe_id}, {step.state}", "nothing", step.stripe_id, touched)
        else:
            own = next((thing for thing in found if thing.id == step.stripe_id), found[0])
            for what, there in _step_differs(step, grant, own, refunds, checked):
                yield Difference(name, what, there, own.id, touched)
    for step_id, strangers in theirs.items():
        named = f"no step {step_id[:40] or 'at all'}"
        for one in strangers:
            of = frozenset([one.invoice_id] if isinstance(one, CreditNoteFact) else [])
            yield Difference(one.id, named, "an object that says it is ours", one.id, of)


def _step_differs(
    step: Step, grant: Grant, found: Object, refunds: Mapping[str, RefundFact], checked: Counter[str]
) -> Iterator[tuple[str, str]]:
    """What we have and what Stripe has, where that is not the same."""
    amount = found.total if isinstance(found, CreditNoteFact) else abs(found.amount)
    if (amount, found.currency) != (step.amount, step.currency):
        yield plain(Money(step.amount, step.currency)), plain(Money(amount, found.currency))
    if isinstance(found, CreditNoteFact) and found.invoice_id != grant.invoice_id:
        yield f"a note of {grant.invoice_id}", f"one of {found.invoice_id}"
    if step.state in UNDER_WAY:
        return  # whoever sent it writes the answer down, or it is looked for
    if step.state not in MADE:
        yield step.state, found.id
    elif step.stripe_id != found.id:
        yield str(step.stripe_id), found.id
    if isinstance(found, CreditNoteFact) and found.status == "void":
        yield step.state, "a voided credit note"
    refund = found if isinstance(found, RefundFact) else refunds.get(step.refund_id or "")
    if isinstance(found, CreditNoteFact) and step.refund_id and step.refund_id not in dict(found.refunds):
        yield f"the refund {step.refund_id}", "a note without it"
    if step.refund_id and refund is None:
        yield f"the refund {step.refund_id}", "no such refund"
    if refund is not None and step.state in MADE:
        checked["refunds"] += isinstance(found, CreditNoteFact)
        if REFUND_AS_STEP.get(refund.status) != step.state:
            yield step.state, f"a refund that is {refund.status}"


def _voids_differ(connection: gateway.Gateway, ours: _Books, checked: Counter[str]) -> Iterator[Difference]:
    for step, grant in ours.steps:
        if step.kind == "void" and step.state in MADE:
            checked["voided_invoices"] += 1
            status = connection.invoice(grant.invoice_id).status
            if status != "void":
                touched = frozenset([grant.invoice_id])
                yield Difference(f"Invoice {grant.invoice_id}", "void", status, grant.invoice_id, touched)


def _pauses_differ(
    ours: _Books, subscriptions: Iterable[SubscriptionFact], checked: Counter[str]
) -> Iterator[Difference]:
    """A subscription that two incidents hold is compared with the pause that has not ended; how its renewals are held,
    with the one that leads."""
    ended = ("released", "left")
    last = sorted(ours.pauses, key=lambda one: (one.state not in ended, one.state == "held", one.id in ours.leading))
    pauses = {pause.subscription_id: pause for pause in last}
    for subscription in subscriptions:
        pause = pauses.get(subscription.id)
        checked["pauses"] += pause is not None
        name = f"Subscription {subscription.id}"
        state = pause.state if pause else "no pause"
        alive = subscription.status in ALIVE  # one that has ended keeps its pause for good
        if pause is not None and state == "held" and alive:
            if subscription.pause_behavior is None:
                yield Difference(name, "held", "billing runs", subscription.id)
            elif pause.id in ours.leading and subscription.pause_behavior != pause.behavior:
                yield Difference(name, f"held, {pause.behavior}", subscription.pause_behavior, subscription.id)
        said = subscription.pause_incident if subscription.pause_behavior is not None else None
        still_ours = alive and said in ours.incidents
        if still_ours and (pause is None or subscription.id in ours.released):
            yield Difference(name, state, "paused by us", subscription.id)


def _drafts_left(connection: gateway.Gateway, ours: _Books) -> Iterator[Difference]:
    """Drafts of a subscription that was released, and that nobody is still to release."""
    if not ours.released:
        return
    for draft in connection.every(INVOICE, status="draft"):
        by_itself = (draft.billing_reason or "").startswith("subscription") and not draft.auto_advance
        if by_itself and draft.subscription_id in ours.released and draft.id not in ours.expected_drafts:
            yield Difference(f"Invoice {draft.id}", "released", "a draft that nothing will finalize", draft.id)
