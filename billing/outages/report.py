"""What an incident cost, in numbers that add up: the evidence for a claim, and for the accounts.

Amounts are integers of the currency's smallest Stripe unit, one entry per currency, never added across them. Days and
dates are Stripe's own times of the documents (UTC), so that the report says what the customer's papers say.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.models import Customer, Platform
from billing.outages import damages, report_sql, settlements
from billing.outages.attributed import attributed
from billing.outages.decisions import IncidentVersion
from billing.outages.models import Incident, Update
from billing.outages.queries import find, retired
from billing.windows import iso
from tenants.models import Agency, AuditEntry

BATCH: Final = 1_000
WAYS: Final = ("refunded", "credited", "reduced", "paid_by_hand")
NOT_YET: Final = ("on_its_way", "waiting", "for_a_person", "given_elsewhere", "rounded_away")
UNDECIDED: Final = ("declined", "frozen", "choosing", "settled_later", "held_draft")
"""Of what was left out: what is owed all the same, and late once the promised date has gone by."""
BY_TERMS: Final = ("disputed", "below_minimum", "nothing_refundable")
"""Of what was left out: what waits for a bank or for more to come, or can go back no way. It breaks no promise."""


@dataclass(frozen=True)
class Document:
    """One grant as the evidence shows it: whose, for which invoice, how much by which way, and how it ended.

    One of which everything came back has the state `failed`, its amount went on to another.
    """

    agency: str
    customer: str
    customer_name: str
    invoice: str
    credit_note: str
    refunds: str
    balance_entry: str
    currency: str
    amount: int
    refund: int
    credit: int
    reduce: int
    out_of_band: int
    tax: int
    """Of `amount`: the tax in it, inclusive or on top, in the proportion of each line's own."""
    state: str
    on: datetime | None
    """When Stripe made the document; None where there is none."""
    returned: int
    """What Stripe refunded and the bank sent back, besides `amount` unless everything did; another grant stands in."""
    returned_on: datetime | None
    """When that was learned."""
    let_go: int
    """Of `returned`: what nobody owes for it any more. What was to stand in for it was called off, and planned anew."""
    let_go_on: datetime | None
    stands_in: int
    """Of `amount`: what had been refunded before and came back."""
    by_hand: int
    """Of `out_of_band`: what a person has paid."""
    paid_on: datetime | None


def report(session: Session, now: datetime, incident_id: str, agency: str | None = None) -> dict[str, Any]:
    """One incident as numbers: for all agencies in sight, or for the one with that slug. Raises `NotFound`.

    `money` has one entry per currency: what was `given` by each way, what is `on_its_way`, `waiting` for a state to
    change, `for_a_person`, what stays owed, until a later run counts it anew, because Stripe's tax `rounded_away`
    the last cent of a note, and what the last run of each agency `left_out`, or somebody declined; all of it together
    is what was `owed`, less what was waived. The report's own `left_out` says for which reason; `because_of_it` what
    its own seconds cost, and goodwill; `waived` what customers did not want; `held` what the held renewals asked for
    and brought; `retired` what became of subscriptions whose platform does not come back; `fees` what Stripe kept. An
    outage that was open when it was retracted counts until then.
    """
    incident = find(session, incident_id)
    platform = session.get_one(Platform, incident.platform_id)
    told = {"incident": incident_id, "agency": agency}
    counts = session.execute(sa.text(report_sql.COUNTS), told).mappings().one()
    left_out = [_whole(row) for row in session.execute(sa.text(report_sql.LEFT_OUT), told).mappings()]
    retracted_at = session.scalar(_RETRACTED, {"incident": incident_id})
    seconds = int(((incident.ended_at or retracted_at or now) - incident.started_at).total_seconds())
    return {
        "incident": incident.id,
        "title": incident.title,
        "platform": platform.name,
        "state": incident.state,
        "agency": agency,
        "started_at": iso(incident.started_at),
        "ended_at": iso(incident.ended_at) if incident.ended_at else None,
        "retracted_at": iso(retracted_at) if retracted_at else None,
        "as_of": iso(now),
        "impact": incident.impact_bp,
        "outage_seconds": seconds,
        "declared_at": iso(incident.declared_at),
        "affected": dict(counts),
        "money": _money([_whole(row) for row in session.execute(sa.text(report_sql.MONEY), told).mappings()], left_out),
        "left_out": left_out,
        "because_of_it": attributed(session, incident_id, now, agency).to_json(),
        "waived": [_whole(row) for row in session.execute(sa.text(report_sql.WAIVED), told).mappings()],
        "held": [_whole(row) for row in session.execute(sa.text(report_sql.HELD), told).mappings()],
        "retired": retired(session, incident_id, agency),
        "fees": [_whole(row) for row in session.execute(sa.text(report_sql.FEES), told).mappings()],
        "damages": _damages(session, incident_id, agency),
        "promise": promise(session, now, incident, agency),
        "runs": [_whole(row) for row in session.execute(sa.text(report_sql.RUNS), told).mappings()],
        "updates": [
            {"at": iso(update.published_at), "body": update.body}
            for update in session.scalars(
                sa.select(Update).where(Update.incident_id == incident_id).order_by(Update.published_at, Update.id)
            )
        ],
        "evidence": _evidence(session, incident_id, agency),
    }


def promise(session: Session, now: datetime, incident: Incident, agency: str | None = None) -> dict[str, Any]:
    """Whether all money was back by the promised date: `kept` true or false, None while there is time and more to come.
    The date is the incident's, or that of the one agency with the slug.

    What was retracted promises nothing any more: None too.

    Money is back when Stripe has made its document; what waits for a person or a bank is not, nor is `undecided`, the
    invoices of which something is owed and nobody has let it go: declined, frozen, or their customers may still choose.
    A dispute, a minimum and what can go back no way break no promise; `excepted` are those invoices, so that nobody
    takes a promise that was kept for more than it is.
    """
    told = {"incident": incident.id, "agency": agency}
    owner = session.scalar(sa.select(Agency.id).where(Agency.slug == agency)) if agency is not None else None
    by = incident.promise_at if owner is None else settlements.promised_by(session, incident, owner)
    found = session.execute(sa.text(report_sql.PROMISE), told).one()
    left_out = session.execute(sa.text(report_sql.LEFT_OUT), told).mappings().all()
    undecided, excepted = (
        sum(int(row["count"]) for row in left_out if row["reason"] in reasons and row["amount"])
        for reasons in (UNDECIDED, BY_TERMS)
    )
    last: datetime | None = found.last
    in_time = last is None or last <= by
    kept: bool | None = in_time
    if incident.state == "retracted":
        kept = None
    elif found.open or undecided:
        kept = None if in_time and now <= by else False
    elif incident.state == "declared" and in_time:  # more is to come
        kept = None
    return {
        "by": iso(by),
        "kept": kept,
        "open_grants": found.open,
        "undecided": undecided,
        "excepted": excepted,
        "last_document": iso(last) if last else None,
    }


def documents(session: Session, incident_id: str, agency: str | None = None) -> Iterator[Document]:
    """Every grant of the incident that stands or came back, by agency and invoice; read in batches, so of any number.

    What was cancelled, or failed before Stripe had made anything of it, is no evidence of anything.
    """
    rows = session.execute(
        sa.text(report_sql.DOCUMENTS),
        {"incident": incident_id, "agency": agency},
        execution_options={"yield_per": BATCH},
    )
    for row in rows:
        yield Document(*row)


def _whole(row: sa.RowMapping) -> dict[str, Any]:
    """Sums of bigint come back as Decimal; all of them are whole."""
    return {name: int(value) if isinstance(value, Decimal) else value for name, value in row.items()}


def _money(given: list[dict[str, Any]], left_out: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_currency = {one["currency"]: one for one in given}
    nothing = {"grants": 0} | dict.fromkeys((*WAYS, "given", *NOT_YET), 0)
    for one in left_out:
        by_currency.setdefault(one["currency"], {"currency": one["currency"]} | nothing)
    for currency, money in by_currency.items():
        money["left_out"] = sum(one["amount"] for one in left_out if one["currency"] == currency)
        money["owed"] = sum(money[name] for name in (*WAYS, *NOT_YET, "left_out"))
    return [by_currency[currency] for currency in sorted(by_currency)]


def _damages(session: Session, incident_id: str, agency: str | None) -> list[dict[str, Any]]:
    entries = damages.reported(session, incident_id)
    if agency is None:
        return entries
    own = set(
        session.scalars(
            sa.select(Customer.id).join(Agency, Agency.id == Customer.agency_id).where(Agency.slug == agency)
        )
    )
    return [entry for entry in entries if entry["customer"] in own]


def _evidence(session: Session, incident_id: str, agency: str | None) -> list[dict[str, Any]]:
    """The audit entries about the incident, with the hashes that chain them."""
    found = sa.select(AuditEntry, Agency.slug).join(Agency, Agency.id == AuditEntry.agency_id)
    found = found.where(AuditEntry.subject == incident_id)
    if agency is not None:
        found = found.where(Agency.slug == agency)
    return [
        {
            "agency": slug, "seq": entry.seq, "at": iso(entry.at), "actor": entry.actor, "action": entry.action,
            "hash": entry.hash,
        }
        for entry, slug in session.execute(found.order_by(AuditEntry.at, AuditEntry.agency_id, AuditEntry.seq))
    ]  # fmt: skip


_RETRACTED: Final = sa.select(IncidentVersion.at).where(
    IncidentVersion.incident_id == sa.bindparam("incident"), IncidentVersion.what == "retracted"
)
