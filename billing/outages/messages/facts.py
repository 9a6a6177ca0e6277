"""What a message says, out of the rows as they are: its placeholders' values, in the customer's way of writing."""

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing import locales
from billing.models import Customer, Invoice, Platform, Subscription
from billing.money import Money, Totals
from billing.outages import choices, explain, settlements
from billing.outages.choices import Asked
from billing.outages.messages import chosen
from billing.outages.messages.models import Message
from billing.outages.models import Grant, Incident, Pause, Run, Update
from tenants.models import Agency

_WAYS: Final = (
    ("refund", "{} goes back to the card or account that you paid with. Your bank may take 5 to 10 days to show it."),
    ("credit", "{} has been credited to your balance, which pays towards your next invoice."),
    ("reduce", "{} has been taken off what the invoice still asks for."),
    ("out_of_band", "{} has been paid back to you directly."),
)


@dataclass(frozen=True)
class Subject:
    """Whom a message is for, and which fact it tells: a grant, an update, or the incident itself."""

    kind: str
    customer: Customer
    agency: Agency
    incident: Incident
    grant: Grant | None = None
    update: Update | None = None
    until_update: int | None = None
    before: Message | None = None
    """Of a correction: the message that is no longer right."""

    @property
    def locale(self) -> str:
        """The customer's, where it is one that is known, else the agency's."""
        return locales.known(self.customer.locale) or self.agency.locale


def subject_of(session: Session, message: Message) -> Subject:
    """Gather what `message` is about."""
    grant = update = before = None
    if message.kind in ("refunded", "correction"):
        grant = session.scalars(sa.select(Grant).where(Grant.id == int(message.about))).one()
        before = told_before(session, grant)
    if message.kind == "update":
        update = session.get_one(Update, int(message.about))
    return Subject(
        message.kind,
        session.scalars(
            sa.select(Customer).where(Customer.agency_id == message.agency_id, Customer.id == message.customer_id)
        ).one(),
        session.get_one(Agency, message.agency_id),
        session.get_one(Incident, message.incident_id),
        grant,
        update,
        message.until_update,
        before,
    )


def told_before(session: Session, grant: Grant) -> Message | None:
    """What the customer was told last about the grant that this one stands in for."""
    original = grant.fallback_of
    while original is not None:
        told: Message | None = session.scalar(
            sa.select(Message)
            .where(
                Message.agency_id == grant.agency_id, Message.kind.in_(("refunded", "correction")),
                Message.about == str(original), Message.sent_at.is_not(None),
            )
            .order_by(Message.sent_at.desc())
            .limit(1)
        )  # fmt: skip
        if told is not None:
            return told
        original = session.scalar(sa.select(Grant.fallback_of).where(Grant.id == original))
    return None


def pauses_of(agency_id: int, customer_id: str) -> sa.Select[Any]:
    """Every pause of a customer's subscriptions."""
    theirs = sa.select(Subscription.id).where(
        Subscription.agency_id == agency_id, Subscription.customer_id == customer_id
    )
    return sa.select(Pause).where(Pause.agency_id == agency_id, Pause.subscription_id.in_(theirs))


def values(session: Session, subject: Subject, public_url: str) -> dict[str, str]:
    """A value for every placeholder of the message's kind."""
    incident, agency, tag = subject.incident, subject.agency, subject.locale
    platform = session.get_one(Platform, incident.platform_id).name
    found = {
        "customer": _one_line(subject.customer.name) or "there",
        "agency": _one_line(agency.name),
        "platform": platform,
        "title": _one_line(incident.title) or f"{platform} outage",
        "started": locales.moment(incident.started_at, tag, agency.time_zone),
        "ended": locales.moment(incident.ended_at, tag, agency.time_zone) if incident.ended_at else "now",
        "portal": f"{public_url}/portal",
        "status": f"{public_url}/status",
    }
    if subject.kind == "update":
        return found | {"update": subject.update.body if subject.update else ""}
    asked = choices.asked(session, agency.id, subject.customer.id, incident.id)
    found["choice"] = _choice(session, subject, asked, found["portal"])
    if subject.kind == "declared":
        return found | _declared(session, subject, asked)
    if subject.kind == "resumed":
        return found | {"over": _over(subject, found), "total": _total(session, subject)}
    return found | _granted(session, subject)


def _choice(session: Session, subject: Subject, asked: Asked | None, portal: str) -> str:
    until = locales.moment(asked.closes_at, subject.locale, subject.agency.time_zone) if asked else ""
    return chosen.in_words(subject.kind, asked, until, portal, by_credit=_policy(session, subject) == "credit")


def _declared(session: Session, subject: Subject, asked: Asked | None) -> dict[str, str]:
    incident, tag = subject.incident, subject.locale
    published = sa.select(Update.body).where(
        Update.incident_id == incident.id, Update.id <= (subject.until_update or 2**62)
    )
    promise = locales.day(settlements.promised_by(session, incident, subject.agency.id), tag, subject.agency.time_zone)
    return {
        "updates": "\n\n".join(session.scalars(published.order_by(Update.id))),
        "paused": _paused(session, subject),
        "money_back": "" if asked and asked.choice == "waive" else _money_back(session, subject, promise),
        "promise": promise,
    }


def _paused(session: Session, subject: Subject) -> str:
    held = session.scalar(
        pauses_of(subject.agency.id, subject.customer.id)
        .where(Pause.incident_id == subject.incident.id, Pause.state == "held")
        .with_only_columns(sa.func.count())
    )
    if not held:
        return ""
    if held == 1:
        return "Billing of your subscription is paused: nothing is charged for it until the outage is over."
    many = locales.number(held, subject.locale)
    return f"Billing of {many} subscriptions is paused: nothing is charged for them until the outage is over."


def _money_back(session: Session, subject: Subject, promise: str) -> str:
    policy = _policy(session, subject)
    if policy in (None, "none"):
        return ""
    way = "is credited to your balance" if policy == "credit" else "goes back to you, the way you paid,"
    return f"What you paid for the time that you lost {way} by {promise}. We write to you as soon as it has."


def _policy(session: Session, subject: Subject) -> str | None:
    """What the agency's last run of the incident was planned by."""
    found: str | None = session.scalar(
        sa.select(Run.policy)
        .where(Run.agency_id == subject.agency.id, Run.incident_id == subject.incident.id)
        .order_by(Run.no.desc())
        .limit(1)
    )
    return found


def _granted(session: Session, subject: Subject) -> dict[str, str]:
    grant, tag = subject.grant, subject.locale
    if grant is None:
        raise ValueError(f"a {subject.kind} message is about a grant")
    number = session.scalar(
        sa.select(Invoice.number).where(Invoice.agency_id == grant.agency_id, Invoice.id == grant.invoice_id)
    )
    amount = locales.money(grant.amount, grant.currency, tag)
    found = {"amount": amount, "invoice": number or grant.invoice_id}
    if subject.kind == "refunded":
        parts = [(getattr(grant, part), words) for part, words in _WAYS]
        reader = locales.Reader(tag, subject.agency.time_zone)
        ways = [words.format(locales.money(part, grant.currency, tag)) for part, words in parts if part]
        return found | {"ways": "\n".join(ways), "arithmetic": "\n".join(explain.computed(session, grant, reader))}
    before = subject.before
    return found | {
        "told": locales.money(before.amount or 0, grant.currency, tag) if before else amount,
        "told_on": locales.day(before.sent_at, tag, subject.agency.time_zone) if before and before.sent_at else "",
        "change": _change(subject, grant, amount, before),
    }


def _change(subject: Subject, grant: Grant, amount: str, before: Message | None) -> str:
    part = "It" if before is None or before.amount == grant.amount else f"Of that, {amount}"
    if grant.credit:
        return (
            f"{part} could not reach you that way. {amount} has been credited to your balance instead, which pays"
            " towards your next invoice."
        )
    who = _one_line(subject.agency.name)
    return f"{part} could not reach you that way. {who} pays {amount} back to you directly instead."


def _over(subject: Subject, found: dict[str, str]) -> str:
    if subject.incident.state == "retracted":
        return f"What we had reported about {found['platform']} turned out not to concern you after all."
    if subject.incident.ended_at is None:
        return f"The outage of {found['platform']} does not concern your billing any longer."
    return f"The outage of {found['platform']} that began on {found['started']} is over since {found['ended']}."


def _total(session: Session, subject: Subject) -> str:
    given = Totals()
    for grant in session.scalars(
        sa.select(Grant).where(
            Grant.agency_id == subject.agency.id, Grant.customer_id == subject.customer.id,
            Grant.incident_id == subject.incident.id, Grant.state == "succeeded",
        )
    ):  # fmt: skip
        given.add(Money(grant.amount, grant.currency))
    amounts = [locales.money(money.amount, money.currency, subject.locale) for money in given if money]
    return f"Given back to you for this outage so far: {', '.join(amounts)}." if amounts else ""


def _one_line(text: str | None) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text or "").split())
