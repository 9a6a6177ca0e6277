"""Our books against Stripe's, object by object, in both directions. Reads only; every difference is shown."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from billing import gateway
from billing.errors import Conflict, NotFound
from billing.facts import BalanceEntryFact, CreditNoteFact, RefundFact, SubscriptionFact
from billing.money import Money, plain
from billing.outages.models import Grant, HeldInvoice, Incident, Pause, Step
from billing.reads import INVOICE, SUBSCRIPTION
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Agency

Object = CreditNoteFact | RefundFact | BalanceEntryFact
SLACK = timedelta(hours=1)
"""Objects are looked for from this long before the declaration."""
REFUND_AS_STEP = {
    "succeeded": "succeeded",
    "pending": "pending",
    "requires_action": "pending",
    "failed": "failed",
    "canceled": "failed",
}
MADE = ("succeeded", "pending", "failed")


@dataclass(frozen=True)
class Difference:
    """One object on which the two sides do not agree, each in its own words."""

    object: str
    ours: str
    theirs: str

    def sentence(self) -> str:
        return f"{self.object}: we have {self.ours}, Stripe has {self.theirs}."


@dataclass(frozen=True)
class Report:
    """How many objects of each kind were compared, and where the sides differ."""

    incident: str
    checked: Mapping[str, int]
    differences: list[Difference] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "incident": self.incident,
            "checked": dict(self.checked),
            "differences": [vars(difference) for difference in self.differences],
        }

    def in_words(self) -> list[str]:
        counted = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in self.checked.items())
        if not self.differences:
            return [f"Our books and Stripe's agree: {counted}."]
        return [f"{len(self.differences)} differences in {counted}:", *(one.sentence() for one in self.differences)]


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
    released: set[str] = field(default_factory=set)
    expected_drafts: set[str] = field(default_factory=set)


def reconcile(house: House, incident_id: str) -> Report:
    """Compare every step and pause of one incident with what Stripe lists. Raises `NotFound`, `Unavailable`."""
    with house.database.work(OPERATOR) as session:
        incident = session.get(Incident, incident_id)
        if incident is None:
            raise NotFound(f"There is no incident {incident_id}.")
        since = incident.declared_at - SLACK
        books = _our_books(session, incident_id)
    checked: Counter[str] = Counter({"credit_notes": 0, "refunds": 0, "balance_entries": 0, "pauses": 0})
    differences: list[Difference] = []
    for account, ours in sorted(books.items()):
        connection = gateway.connect(house, account)
        theirs: dict[str, list[Object]] = defaultdict(list)
        listed: Iterable[Object] = (
            *connection.credit_notes(created_since=since),
            *connection.refunds(created_since=since),
            *_balance_entries(connection, ours),
        )
        refunds: dict[str, RefundFact] = {}
        for thing in listed:
            if isinstance(thing, RefundFact):
                refunds[thing.id] = thing
            if thing.metadata.get("engine") == gateway.engine(house) and thing.metadata.get("incident") == incident_id:
                theirs[thing.metadata.get("step", "")].append(thing)
        differences += _steps_differ(ours, theirs, refunds, checked)
        differences += _voids_differ(connection, ours, checked)
        differences += _pauses_differ(incident_id, ours, connection.every(SUBSCRIPTION), checked)
        differences += _drafts_left(connection, ours)
    return Report(incident_id, checked, differences)


def _our_books(session: Any, incident_id: str) -> dict[str, _Books]:
    books: dict[str, _Books] = defaultdict(_Books)
    steps = (
        sa.select(Step, Grant)
        .join(Grant, sa.and_(Grant.agency_id == Step.agency_id, Grant.id == Step.grant_id))
        .where(Grant.incident_id == incident_id)
    )
    for step, grant in session.execute(steps):
        books[step.stripe_account].steps.append((step, grant))
    pauses = (
        sa.select(Pause, sa.func.coalesce(Agency.stripe_account, ""))
        .join(Agency, Agency.id == Pause.agency_id)
        .where(Pause.incident_id == incident_id)
    )
    held_elsewhere = set(
        session.scalars(
            sa.select(Pause.subscription_id).where(
                Pause.incident_id != incident_id, Pause.state.in_(("planned", "held", "releasing", "needs_person"))
            )
        )
    )
    for pause, account in session.execute(pauses):
        books[account].pauses.append(pause)
        if pause.state == "released" and pause.subscription_id not in held_elsewhere:
            books[account].released.add(pause.subscription_id)
    waiting = sa.select(HeldInvoice.invoice_id).where(HeldInvoice.state.in_(("planned", "held", "needs_person")))
    expected = set(session.scalars(waiting))
    for ours in books.values():
        ours.expected_drafts = expected
    return books


def _balance_entries(connection: gateway.Gateway, ours: _Books) -> Iterator[BalanceEntryFact]:
    for customer in sorted({grant.customer_id for step, grant in ours.steps if step.kind == "balance"}):
        yield from connection.balance_entries(customer)


def _steps_differ(
    ours: _Books, theirs: dict[str, list[Object]], refunds: Mapping[str, RefundFact], checked: Counter[str]
) -> Iterator[Difference]:
    for step, _ in ours.steps:
        if step.kind == "void":
            continue
        found = theirs.pop(str(step.id), [])
        # A note's own refund may carry the note's metadata too: it is looked at with its note.
        found = [thing for thing in found if not (step.kind == "credit_note" and isinstance(thing, RefundFact))]
        checked[{"credit_note": "credit_notes", "refund": "refunds"}.get(step.kind, "balance_entries")] += len(found)
        name = f"Step {step.id} ({step.kind})"
        if len(found) > 1:
            yield Difference(name, "one object", f"{len(found)}: {', '.join(thing.id for thing in found)}")
        elif not found:
            if step.state in MADE and step.stripe_id:
                yield Difference(name, f"{step.stripe_id}, {step.state}", "nothing")
        else:
            yield from _step_differs(name, step, found[0], refunds, checked)
    for step_id, strangers in theirs.items():
        for thing in strangers:
            yield Difference(f"{thing.id}", f"no step {step_id or 'at all'}", "an object that says it is ours")


def _step_differs(
    name: str, step: Step, found: Object, refunds: Mapping[str, RefundFact], checked: Counter[str]
) -> Iterator[Difference]:
    if step.state not in MADE:
        yield Difference(name, step.state, f"{found.id}")
    elif step.stripe_id != found.id:
        yield Difference(name, str(step.stripe_id), found.id)
    amount = found.total if isinstance(found, CreditNoteFact) else abs(found.amount)
    if (amount, found.currency) != (step.amount, step.currency):
        yield Difference(name, plain(Money(step.amount, step.currency)), plain(Money(amount, found.currency)))
    if isinstance(found, CreditNoteFact) and found.status == "void":
        yield Difference(name, step.state, "a voided credit note")
    refund = found if isinstance(found, RefundFact) else refunds.get(step.refund_id or "")
    if step.refund_id and refund is None:
        yield Difference(name, f"the refund {step.refund_id}", "no such refund")
    if refund is not None:
        checked["refunds"] += isinstance(found, CreditNoteFact)
        if REFUND_AS_STEP.get(refund.status) != step.state:
            yield Difference(name, step.state, f"a refund that is {refund.status}")


def _voids_differ(connection: gateway.Gateway, ours: _Books, checked: Counter[str]) -> Iterator[Difference]:
    for step, grant in ours.steps:
        if step.kind == "void" and step.state in MADE:
            checked["voided_invoices"] += 1
            status = connection.invoice(grant.invoice_id).status
            if status != "void":
                yield Difference(f"Invoice {grant.invoice_id}", "void", status)


def _pauses_differ(
    incident_id: str, ours: _Books, subscriptions: Iterable[SubscriptionFact], checked: Counter[str]
) -> Iterator[Difference]:
    pauses = {pause.subscription_id: pause for pause in ours.pauses}
    for subscription in subscriptions:
        pause = pauses.get(subscription.id)
        checked["pauses"] += pause is not None
        name = f"Subscription {subscription.id}"
        state = pause.state if pause else "no pause"
        if state == "held" and subscription.pause_behavior is None:
            yield Difference(name, "held", "billing runs")
        still_ours = subscription.pause_behavior is not None and subscription.pause_incident == incident_id
        if still_ours and (pause is None or subscription.id in ours.released):
            yield Difference(name, state, "paused by us")


def _drafts_left(connection: gateway.Gateway, ours: _Books) -> Iterator[Difference]:
    """Drafts of a subscription that was released, and that nobody is still to release."""
    if not ours.released:
        return
    for draft in connection.every(INVOICE, status="draft"):
        by_itself = (draft.billing_reason or "").startswith("subscription") and not draft.auto_advance
        if by_itself and draft.subscription_id in ours.released and draft.id not in ours.expected_drafts:
            yield Difference(f"Invoice {draft.id}", "released", "a draft that nothing will finalize")
