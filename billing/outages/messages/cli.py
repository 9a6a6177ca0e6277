"""`flask messages`: what customers are told, seen and worded from a terminal."""

from typing import Any, TextIO

import click
import sqlalchemy as sa

from billing import locales
from billing.errors import NotFound, nearest
from billing.outages.messages import queries, senders, sending, wording
from billing.outages.messages.models import KINDS
from tenants.commands import NUMBER, Commands, TextFile, denials, house, member_called, needs_tables, speaks
from tenants.db import OPERATOR
from tenants.models import Agency

message_commands = Commands("messages", help="What customers are told by e-mail, and in which words.")
MOST = 10_000

Spoken = tuple[dict[str, Any], list[str]]


@message_commands.command("list")
@click.option("--incident", "incident_id", metavar="ID")
@click.option("--state", type=click.Choice(queries.STATES))
@click.option("--limit", type=click.IntRange(1, MOST), default=100, show_default=True)
@speaks
@needs_tables
def list_messages(incident_id: str | None, state: str | None, limit: int) -> Spoken:
    """The latest messages, newest first, and how many there are in each state."""
    with house().database.work(OPERATOR) as session:
        found = queries.listed(session, incident_id=incident_id, state=state, limit=limit)
        counts = queries.counts(session, incident_id)
    lines = [
        f"{one['id']:>8}  {one['state']:<11}  {one['kind']:<10}  {one['customer']}  {one['subject'] or ''}"
        + (f"  ({one['reason']})" if one["reason"] else "")
        for one in found
    ]
    if house().settings.smtp_url is None and counts["queued"]:
        lines.append("They wait for a mail server: set SMTP_URL.")
    counted = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    return {"messages": found, "counts": counts}, [*lines, f"In all: {counted or 'no message yet'}."]


@message_commands.command("preview")
@click.argument("kind", metavar="|".join(KINDS))
@click.option("--customer", "customer_id", required=True, metavar="cus_…")
@click.option("--incident", "incident_id", metavar="ID", help="Left out: the last one that touched the customer.")
@click.option("--subject", default="", help="Try these words instead of those in force.")
@click.option("--body-file", type=TextFile(), help="The body of those words; - for standard input.")
@speaks
@needs_tables
def preview(kind: str, customer_id: str, incident_id: str | None, subject: str, body_file: TextIO | None) -> Spoken:
    """A message as this customer would read it. Writes and sends nothing."""
    with house().database.work(OPERATOR) as session:
        letter, document = wording.preview(
            session, house().clock.now(), wording.kind_called(kind), customer_id, house().settings.public_url,
            incident_id=incident_id, subject=subject, body=_read(body_file),
        )  # fmt: skip
    return document, [f"To: {document['to']}", f"Subject: {letter.subject}", "", *letter.text.rstrip().split("\n")]


@message_commands.command("template")
@click.argument("agency_slug", metavar="AGENCY")
@click.argument("kind", metavar="|".join(KINDS))
@click.option("--subject", default="", help="Empty, with no body: back to the built-in words.")
@click.option("--body-file", type=TextFile(), help="A text file; - for standard input.")
@click.option("--by", required=True, metavar="EMAIL")
@speaks
@needs_tables
def template(agency_slug: str, kind: str, subject: str, body_file: TextIO | None, by: str) -> Spoken:
    """Say one kind of message in an agency's own words from now on."""
    with denials("message.template", by, agency_slug), house().database.work(OPERATOR) as session:
        saved = wording.save(
            session, _agency(session, agency_slug), wording.kind_called(kind), subject, _read(body_file),
            member_called(session, by), "cli",
        )  # fmt: skip
        document = {"agency": agency_slug, "kind": kind, "version": saved.version, "built_in": saved.body is None}
    words = "its built-in words" if document["built_in"] else f"version {document['version']} of its words"
    return document, [f"{agency_slug} says {kind} in {words} from now on."]


@message_commands.command("sender")
@click.argument("agency_slug", metavar="AGENCY")
@click.option("--name", help="What its customers read it is called.")
@click.option("--locale", help="How amounts and dates are written, e.g. de-DE, where a customer names no locale.")
@click.option("--time-zone", metavar="NAME", help="Of dates, and of whole hours and days where those are counted.")
@click.option("--currency", metavar="usd", help="What it bills in, as a rule.")
@click.option("--reply-to", metavar="EMAIL", help="Where customers' answers go; empty: nowhere.")
@click.option("--by", required=True, metavar="EMAIL")
@speaks
@needs_tables
def sender(
    agency_slug: str, name: str | None, locale: str | None, time_zone: str | None, currency: str | None,
    reply_to: str | None, by: str,
) -> Spoken:  # fmt: skip
    """What an agency is called, how it writes amounts and dates, and where answers to its messages go."""
    with denials("agency.sender", by, agency_slug), house().database.work(OPERATOR) as session:
        agency = senders.change(
            session, _agency(session, agency_slug), member_called(session, by), "cli", name=name, locale=locale,
            time_zone=time_zone, currency=currency, reply_to=reply_to,
        )  # fmt: skip
        document = {"agency": agency_slug} | {fact: getattr(agency, fact) for fact in senders.FACTS}
    example = locales.money(123_456, agency.currency, agency.locale)
    answers = agency.reply_to or "nowhere"
    return document, [
        f"{agency_slug} is called {agency.name} and writes amounts like {example} and times of {agency.time_zone}.",
        f"Answers go to {answers}.",
    ]


@message_commands.command("retry")
@click.argument("message_id", metavar="ID", type=NUMBER)
@click.option("--by", required=True, metavar="EMAIL")
@speaks
@needs_tables
def retry(message_id: int, by: str) -> Spoken:
    """Queue a message again that failed or had no address."""
    with denials("message.retry", by, str(message_id)), house().database.work(OPERATOR) as session:
        sending.try_again(session, message_id, member_called(session, by), "cli")
    return {"message": message_id, "state": "queued"}, [f"Message {message_id} is queued again."]


def _agency(session: Any, slug: str) -> Agency:
    agency: Agency | None = session.scalar(sa.select(Agency).where(Agency.slug == slug))
    if agency is None:
        raise NotFound(
            f"There is no agency called {slug[:40]!r}{nearest(slug, session.scalars(sa.select(Agency.slug)))}"
        )
    return agency


def _read(file: TextIO | None) -> str:
    return file.read() if file is not None else ""
