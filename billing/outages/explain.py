"""One customer's arithmetic, as the customer reads it: words, numbers and data, out of facts that were kept."""

from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import readers
from billing.locales import Reader
from billing.models import Customer
from billing.outages import reckoning
from billing.outages.arithmetic import arithmetic
from billing.outages.models import Grant, Incident, Run
from billing.outages.queries import find
from billing.outages.reckoning import Reckoned
from billing.owners import customer_called

_WAYS: Final = (
    ("refund", "to the card or account it was paid with"),
    ("credit", "to your balance, which the next invoice uses"),
    ("reduce", "off what the invoice still asks for"),
    ("out_of_band", "by a person, because it was paid outside Stripe"),
)
_POLICIES: Final = {
    "prorated": "in proportion to the time that was paid for and lost",
    "full": "whole, for each payment that was made while the outage went on",
    "credit": "in proportion to the time that was paid for and lost, as a credit to the balance",
    "none": "not at all",
}


def explain(session: Session, incident_id: str, customer_id: str) -> dict[str, Any]:
    """Every grant of one customer for one incident with its arithmetic, as data and as `text`, a list of lines.

    Raises `NotFound` for an incident or a customer that is not there.
    """
    incident = find(session, incident_id)
    customer = customer_called(session, customer_id)
    grants = session.scalars(
        sa.select(Grant)
        .where(
            Grant.incident_id == incident_id,
            Grant.agency_id == customer.agency_id,
            Grant.customer_id == customer.id,
            Grant.state != "cancelled",
        )
        .order_by(Grant.created_at, Grant.id)
    ).all()
    reader = readers.reader_of(session, customer.agency_id, customer.id)
    reckoned = reckoning.of(session, grants)
    told = [_told(grant, reckoned[grant.id], reader) for grant in grants]
    heading = f"{customer.name or customer.id}: {incident.title}, {reader.moment(incident.started_at)} to "
    heading += reader.moment(incident.ended_at) if incident.ended_at else "now"
    return {
        "incident": incident_id,
        "customer": customer.id,
        "locale": reader.tag,
        "time_zone": reader.zone,
        "grants": [data for data, _text in told],
        "text": [heading, *([line for _data, text in told for line in text] or _nothing(session, incident, customer))],
    }


def _nothing(session: Session, incident: Incident, customer: Customer) -> list[str]:
    """Why no grant of a customer stands, as far as that is known: what the last run of their agency says of it."""
    run = session.scalar(
        sa.select(Run)
        .where(Run.agency_id == customer.agency_id, Run.incident_id == incident.id, Run.state != "superseded")
        .order_by(Run.no.desc())
        .limit(1)
    )
    if run is None:
        return ["Nothing was planned for this customer's agency yet."]
    declined = run.state == "declined" and session.scalar(
        sa.select(sa.exists().where(
            Grant.agency_id == run.agency_id, Grant.run_id == run.id, Grant.customer_id == customer.id
        ))
    )  # fmt: skip
    if declined:
        return [f"What was planned was declined, and stays owed: {run.decline_reason}"]
    reasons = ", ".join(sorted(str(one["reason"]).replace("_", " ") for one in run.left_out))
    return [
        "Nothing goes back to this customer for this incident"
        + (f": nothing is owed, or it is among what the last run left out ({reasons})." if reasons else ".")
    ]


def of_grant(session: Session, grant: Grant) -> dict[str, Any]:
    """The arithmetic of one grant as data, with its `text`."""
    reader = readers.reader_of(session, grant.agency_id, grant.customer_id)
    data, text = _told(grant, reckoning.of(session, [grant])[grant.id], reader)
    return {**data, "text": text}


def of_invoice(session: Session, agency_id: int, invoice_id: str) -> list[str]:
    """How what came back of one invoice was computed, as its customer reads it; nothing where nothing came back."""
    grants = session.scalars(
        sa.select(Grant)
        .where(
            Grant.agency_id == agency_id,
            Grant.invoice_id == invoice_id,
            Grant.state.in_(("pending", "succeeded", "needs_person")),
        )
        .order_by(Grant.created_at, Grant.id)
    ).all()
    if not grants:
        return []
    reader = readers.reader_of(session, agency_id, grants[0].customer_id)
    reckoned = reckoning.of(session, grants)
    told = [_told(grant, reckoned[grant.id], reader)[1][1:-1] for grant in grants]
    return [line for number, lines in enumerate(told) for line in (["", *lines] if number else lines)]


def computed(session: Session, grant: Grant, reader: Reader) -> list[str]:
    """How the amount of a grant came about, or of the one that it stands in for."""
    reckoned = reckoning.of(session, [grant])[grant.id]
    reader = reckoning.on_its_clock(reader, reckoned.terms)
    made = arithmetic(reckoned.grant, reckoned.schedules, reader)
    return [*made.text, *_not_given(reckoned, reader)]


def _told(grant: Grant, reckoned: Reckoned, reader: Reader) -> tuple[dict[str, Any], list[str]]:
    reader = reckoning.on_its_clock(reader, reckoned.terms)
    parts = {name: getattr(grant, name) for name, _way in _WAYS}
    ways = [f"  {reader.money(parts[name], grant.currency)} {way}" for name, way in _WAYS if parts[name]]
    state = f"  {grant.state.replace('_', ' ')}{f': {grant.reason}' if grant.reason else ''}"
    facts = {"grant": grant.id, "state": grant.state, "reason": grant.reason, "channel": grant.channel, "parts": parts}
    if grant.fallback_of is not None:
        amount = reader.money(grant.amount, grant.currency)
        text = [f"Instead of a refund that did not work: {amount}", *ways, state]
        return facts | {"fallback_of": grant.fallback_of}, text
    made = arithmetic(reckoned.grant, reckoned.schedules, reader)
    policy = {"grants": reckoned.policy, "terms": reckoned.terms.get("policy")}
    data = facts | made.data | {"policy": policy, "reproduced": reckoned.reproduced}
    rule = f"Under the policy of that day it goes back {_in_words(reckoned.policy, reckoned.terms, reader)}."
    text = [*made.text, *_not_given(reckoned, reader)]
    return data, [f"Invoice {grant.invoice_id}", *text, rule, *ways, state]


def _not_given(reckoned: Reckoned, reader: Reader) -> list[str]:
    """What was planned, and so is in the arithmetic, and was not given after all."""
    if not reckoned.ungiven:
        return []
    return [f"Of that {reader.money(reckoned.ungiven, reckoned.grant.invoice.currency)} was not given after all."]


def _in_words(policy: str, terms: Mapping[str, Any], reader: Reader) -> str:
    """`in proportion to the time …, counted in whole days of Europe/Vienna`."""
    kept = terms.get("policy", {})
    words = [_POLICIES.get(policy, policy)]
    granularity = kept.get("granularity", "second")
    if granularity != "second":
        words.append(f"counted in whole {granularity}s of {terms.get('time_zone', 'UTC')}")
    if kept.get("gap"):
        words.append(f"with interruptions of less than {reader.number(kept['gap'])} seconds")
    if kept.get("recovery"):
        words.append(f"with {reader.number(kept['recovery'])} seconds of recovery")
    return ", ".join(words)
