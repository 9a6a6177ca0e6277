"""What an older database has forgotten is found again in Stripe, and then sending goes on.

Every object that bears our name is looked for: a step that is there takes it for its own, and where the step was
forgotten, too, the invoice is frozen, so that it cannot be given to a second time before a person has looked.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from billing import following, gateway
from billing.answers import LockedOut
from billing.errors import Conflict, Refused
from billing.facts import BalanceEntryFact, CreditNoteFact, RefundFact
from billing.models import Invoice
from billing.outages import forgotten, freezing, funding, restore, strays, switch, verdicts
from billing.outages.findings import Reconciliation
from billing.outages.models import STEP_NEXT, Control, Grant, Step
from billing.outages.restore import EVERYTHING, is_stopped
from billing.outages.steps import Move, locked, move, reserve
from billing.reads import INVOICE
from billing.rows import step_of
from tenants import audit
from tenants.db import OPERATOR, after_commit
from tenants.house import House
from tenants.models import OPERATOR_AGENCY, Agency

log = logging.getLogger(__name__)

LOOKED_BACK: Final = timedelta(days=90)
"""How far back objects of ours are looked for in Stripe: no backup that is older can be put back by itself."""
AT_MOST: Final = timedelta(minutes=10)
"""How long one worker may take to find everything again, before another begins anew."""
ENDED: Final = frozenset({"succeeded", "pending", "failed"})

Object = CreditNoteFact | RefundFact | BalanceEntryFact


def oldest_due() -> sa.Select[Any]:
    """`(since when everything is to be found again, now)`."""
    stopped = sa.select(sa.func.min(Control.at)).where(is_stopped(), ~_is_under_way())
    return sa.select(stopped.scalar_subquery(), sa.func.clock_timestamp())


def _is_under_way() -> sa.ColumnElement[bool]:
    return sa.exists().where(
        Reconciliation.scope == EVERYTHING,
        Reconciliation.ended_at.is_(None),
        Reconciliation.trouble.is_(None),
        Reconciliation.begun_at > sa.func.clock_timestamp() - AT_MOST,
    )


def recover_due(house: House, _limit: int = 1) -> int:
    """If sending is stopped after a restore: find everything of ours in Stripe again, then let it go on.

    Returns 1 when that was done. Where Stripe does not answer it stays stopped, and is tried again. Safe to run
    anywhere, any number of times at once.
    """
    with house.database.work(OPERATOR) as session:
        stopped = session.scalar(sa.select(Control).where(is_stopped()).with_for_update())
        if stopped is None or session.scalar(sa.select(_is_under_way())):
            return 0
        begun = Reconciliation(scope=EVERYTHING)
        session.add(begun)
        session.flush()
        session.refresh(begun)
    try:
        objects, differences = _find_everything(house)
    except Refused as refusal:
        log.warning("What Stripe has of ours cannot be found again yet: %s", refusal)
        with house.database.work(OPERATOR) as session:
            given_up = sa.update(Reconciliation).where(Reconciliation.id == begun.id)
            session.execute(given_up.values(trouble=str(refusal)))
        return 0
    with house.database.work(OPERATOR) as session:
        facts = {"ended_at": sa.func.clock_timestamp(), "objects": objects, "differences": differences}
        ended = sa.update(Reconciliation).where(Reconciliation.id == begun.id, Reconciliation.ended_at.is_(None))
        if session.scalar(ended.values(**facts).returning(Reconciliation.id)) is None:
            log.warning("A copy came back while everything was found again: it begins anew.")
            return 0
        session.execute(
            sa.update(Control).where(is_stopped()).values(sending=True, reason="everything was found again")
        )
        facts = {"objects": objects, "frozen": len(differences)}
        audit.record(session, "engine", "worker", "sending.continued", "everything", after=facts)
        for task in ("webhooks.follow", "outages.hold", "outages.send", "outages.release"):
            after_commit(session, task, 0)
    restore.look_again(house)
    return 1


@dataclass(frozen=True)
class _Theirs:
    """What one Stripe account has that says it is ours, and every refund in it."""

    connection: gateway.Gateway
    ours: list[Object]
    refunds: dict[str, RefundFact]


def _find_everything(house: House) -> tuple[int, list[dict[str, Any]]]:
    """Each object of ours to its step, or its invoice frozen. How many there were, and what could not be matched."""
    since = house.clock.now() - LOOKED_BACK
    with house.database.work(OPERATOR) as session:
        accounts = ["", *session.scalars(sa.select(Agency.stripe_account).where(Agency.stripe_account.is_not(None)))]
    theirs = [its for account in sorted(set(accounts)) if (its := _listed(house, account, since)) is not None]
    named = [(_step_named(house, found) or 0, found, its) for its in theirs for found in its.ours]
    _pass_over(house, max([restore.anchored_step(house), *(step_id for step_id, _, _ in named)]))
    differences = []
    for step_id, found, its in sorted(named, key=lambda one: one[0]):
        unmatched = _matched(house, its, step_id, found)
        if unmatched is not None:
            differences.append({"object": found.id, "ours": unmatched, "theirs": "an object that says it is ours"})
    return len(named), differences


def _listed(house: House, account: str, since: datetime) -> _Theirs | None:
    """None: an agency's own account lets us in no more. Nothing is sent there until a person lets it go on."""
    try:
        return _read(house, account, since)
    except LockedOut as refusal:
        if not account:
            raise
        why = f"What an older database has forgotten of this account could not be looked for: {refusal}"
    log.error("Sending to %s is stopped: %s", account, why)
    with house.database.work(OPERATOR) as session:
        switch.turn(session, switch.of_account(account), why, "engine", sending=False)
        audit.record(session, "engine", "worker", "sending.stopped", account, after={"reason": why})
    return None


def _read(house: House, account: str, since: datetime) -> _Theirs:
    followed_to = None
    try:
        followed_to = following.look_ahead(house, account)
    except Conflict as refusal:  # its events are gone: an import is due, which a person begins
        log.warning("%s", refusal)
    connection = gateway.connect(house, account)
    refunds = connection.refunds(created_since=since)
    found: list[Object] = [*refunds, *connection.credit_notes(created_since=since)]
    ours = [one for one in found if _step_named(house, one) is not None]
    ours += forgotten.entries(house, connection, since, followed_to)
    return _Theirs(connection, ours, {one.id: one for one in refunds})


def _pass_over(house: House, highest: int) -> None:
    """A new step must never take the number of a forgotten one: its key and its objects in Stripe are in use."""
    with house.database.work(OPERATOR) as session:
        passed_over = sa.text("SELECT setval('steps_id_seq', greatest(last_value, :highest)) FROM steps_id_seq")
        session.execute(passed_over, {"highest": highest})


def _step_named(house: House, found: Object) -> int | None:
    return step_of(found.metadata, gateway.engine(house))


def _matched(house: House, its: _Theirs, step_id: int, found: Object) -> str | None:
    """Give `found` to its step. Where that cannot be, freeze its invoice, and say why."""
    refund = its.refunds.get(found.refunds[0][0]) if isinstance(found, CreditNoteFact) and found.refunds else None

    def give(session: Session) -> str | None:
        step = locked(session, step_id)
        if step is None:
            return f"no step {step_id}"
        return _given_to(session, its.connection.account, step, found, refund)

    unmatched = house.database.retried(OPERATOR, give)
    if unmatched is None:
        return None
    invoices = _invoices_of(house, its.connection, found)

    def freeze(session: Session) -> None:
        known = dict(session.execute(sa.select(Invoice.id, Invoice.agency_id).where(Invoice.id.in_(invoices))).all())
        reason = f"{found.id} in Stripe says it is ours, and we have {unmatched}."
        freezing.freeze(session, ((known.get(one, OPERATOR_AGENCY), one, reason) for one in invoices))

    house.database.retried(OPERATOR, freeze)
    return unmatched


def _given_to(session: Session, account: str, step: Step, found: Object, refund: RefundFact | None) -> str | None:
    """What keeps the step from being this object's, None when it is now, in the state in which Stripe has it."""
    if isinstance(found, RefundFact) and step.kind == "credit_note":
        return None  # its note's: looked at with the note
    money = found if isinstance(found, RefundFact) else refund
    was_known = step.stripe_id == found.id and step.state in ENDED
    if was_known and step.refund and money is None:
        return None  # how its refund fares is not told
    fact = verdicts.of_object(step, found, refund)
    if was_known and fact.to == step.state:
        return None
    as_sent = "sent" if step.state == "approved" else step.state
    if (
        step.stripe_account != account
        or step.stripe_id not in (None, found.id)
        or fact.stripe_id is None
        or fact.to not in (step.state, *STEP_NEXT[as_sent])
    ):
        return f"step {step.id} as {step.stripe_id or step.state}"
    if not _is_what_it_is_for(session, step, found):
        return f"step {step.id} for something else"
    if step.first_sent_at is None:
        try:
            with session.begin_nested():
                _as_if_sent(session, step, found)
        except IntegrityError:
            return f"no room for step {step.id}"
    move(session, step, fact, actor="stripe")
    if money is not None and funding.lacked(money):
        funding.ran_short(session, step, money)
    return None


def _is_what_it_is_for(session: Session, step: Step, found: Object) -> bool:
    """A step that was made after the copy came back may have the number of a forgotten one."""
    grant = session.scalars(sa.select(Grant).where(Grant.agency_id == step.agency_id, Grant.id == step.grant_id)).one()
    if isinstance(found, CreditNoteFact):
        return found.invoice_id == grant.invoice_id
    if isinstance(found, BalanceEntryFact):
        return found.customer_id == grant.customer_id
    return (grant.agency_id, grant.invoice_id) in strays.invoices_of(session, found)


def _as_if_sent(session: Session, step: Step, found: Object) -> None:
    """Write the attempt that the database has forgotten: its room is taken, its body is what Stripe has of it."""
    reserve(session, step)
    body: dict[str, Any] = {"found": found.id}
    if isinstance(found, CreditNoteFact) and found.refunds:
        of_steps = sa.select(Step.stripe_id).where(Step.grant_id == step.grant_id, Step.kind == "refund")
        linked = set(session.scalars(of_steps))
        links = [{"refund": id, "amount_refunded": amount} for id, amount in found.refunds if id in linked]
        body |= {"refunds": links} if links else {}
    step.body = json.dumps(body)
    step.body_sha256 = hashlib.sha256(step.body.encode()).hexdigest()
    step.stripe_version, step.first_sent_at = gateway.API_VERSION, sa.func.clock_timestamp()
    step.attempt_no += 1
    if step.state == "approved":
        move(session, step, Move("sent", evidence={"found": found.id}))
    session.flush()


def _invoices_of(house: House, connection: gateway.Gateway, found: Object) -> set[str]:
    """Those that the object is about; of a balance entry all of its customer's, for it names none."""
    if isinstance(found, CreditNoteFact):
        return {found.invoice_id}
    if isinstance(found, BalanceEntryFact):
        return {one.id for one in connection.every(replace(INVOICE, expand=()), customer=found.customer_id)}
    with house.database.work(OPERATOR) as session:
        known = {invoice_id for _, invoice_id in strays.invoices_of(session, found)}
    if not known and found.payment_intent:
        return {one.invoice_id for one in connection.invoices_paid_by(found.payment_intent)}
    return known
