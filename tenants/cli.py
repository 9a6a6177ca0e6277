"""`flask db`, `flask agencies`, `flask members`."""

import csv
import io
import re
import unicodedata
from datetime import timedelta
from typing import Any, TextIO

import click
import segno
import sqlalchemy as sa
from sqlalchemy.orm import Session

from tenants import audit, factors, people, upgrade
from tenants.commands import Commands, Refusal, TextFile, denials, house, member_called, needs_tables, speaks
from tenants.db import OPERATOR
from tenants.models import AGENCY_ROLES, STAFF_ROLES, Agency, Member
from tenants.policy import Policy, set_policy
from tenants.policy import in_force as policies_in_force

AGENCY_COLUMNS = ("name", "slug", "currency", "time_zone", "stripe_account")
database_commands = Commands("db", help="The database's tables.")
agency_commands = Commands("agencies", help="Agencies: the tenants.")
member_commands = Commands("members", help="People of the operator and of agencies.")


@database_commands.command("upgrade")
@speaks
def upgrade_database() -> tuple[dict[str, Any], list[str]]:
    """Bring the tables to what this program needs. Safe to run any number of times."""
    settings = house().settings
    revision = upgrade.upgrade(settings.database_owner_url or settings.database_url)
    return {"revision": revision}, [f"The database is at revision {revision}."]


@agency_commands.command("create")
@click.argument("name")
@click.option("--slug", help="Short name in addresses and metadata; default: made from NAME.")
@click.option("--currency", default="usd", show_default=True)
@click.option("--time-zone", default="UTC", show_default=True)
@click.option("--stripe-account", help="acct_… of a connected account; default: the operator's.")
@speaks
@needs_tables
def create_agency(
    name: str, slug: str | None, currency: str, time_zone: str, stripe_account: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Make an agency."""
    with house().database.work(OPERATOR) as session:
        facts = _make_agency(session, name, slug, currency, time_zone, stripe_account)
    return facts, [f"Agency {facts['slug']} ({facts['name']}) is there."]


@agency_commands.command("load")
@click.argument("file", type=TextFile(), metavar="FILE.csv")
@speaks
@needs_tables
def load_agencies(file: TextIO) -> tuple[dict[str, Any], list[str]]:
    """Make the agencies of a CSV file, all or none. Columns: name, and if wanted slug, currency, time_zone,
    stripe_account. FILE.csv may be - for standard input."""
    try:
        rows = csv.DictReader(io.StringIO(file.read()), strict=True)
        return _load_agencies(rows)
    except (UnicodeDecodeError, csv.Error) as error:
        raise Refusal(f"The file is no CSV in UTF-8: {error}.") from error


def _load_agencies(rows: "csv.DictReader[str]") -> tuple[dict[str, Any], list[str]]:
    unknown = {column or "" for column in rows.fieldnames or ()} - set(AGENCY_COLUMNS)
    if unknown or "name" not in (rows.fieldnames or ()):
        raise Refusal(f"The first line names the columns: name, and any of {', '.join(AGENCY_COLUMNS[1:])}.")
    made: list[dict[str, Any]] = []
    with house().database.work(OPERATOR) as session:
        for row in rows:
            if None in row or None in row.values():
                raise Refusal(f"Line {rows.line_num}: it has not as many columns as the first.")
            try:
                made.append(
                    _make_agency(
                        session,
                        row["name"],
                        row.get("slug"),
                        row.get("currency") or "usd",
                        row.get("time_zone") or "UTC",
                        row.get("stripe_account") or None,
                    )
                )
            except Refusal as refusal:
                raise Refusal(f"Line {rows.line_num}: {refusal}") from refusal
    return {"agencies": made}, [f"{len(made)} agencies are there: {', '.join(facts['slug'] for facts in made)}."]


def _make_agency(
    session: Session, name: str, slug: str | None, currency: str, time_zone: str, stripe_account: str | None
) -> dict[str, Any]:
    """Add one agency and its audit entry; its facts. Raises `Refusal`."""
    try:
        name, time_zone, currency = Agency.called(name), Agency.zone_called(time_zone), Agency.currency_called(currency)
    except ValueError as refusal:
        raise Refusal(str(refusal)) from refusal
    if not slug:
        plain = unicodedata.normalize("NFKD", name.lower())
        slug = re.sub(r"[^a-z0-9]+", "-", "".join(one for one in plain if not unicodedata.combining(one))).strip("-")
    if not slug:
        raise Refusal(f"{name!r} makes no slug: give one, of lower-case letters, digits and hyphens.")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", slug):
        raise Refusal(f"{slug!r} cannot be a slug: use lower-case letters, digits and hyphens, at most 63.")
    if stripe_account is not None and not re.fullmatch(r"acct_[A-Za-z0-9]+", stripe_account):
        raise Refusal(f"{stripe_account!r} is no Stripe account: it begins with acct_.")
    if session.scalar(sa.select(Agency.id).where(Agency.slug == slug)):
        raise Refusal(f"There is an agency called {slug} already.")
    if stripe_account and session.scalar(sa.select(Agency.id).where(Agency.stripe_account == stripe_account)):
        raise Refusal(f"Another agency has the Stripe account {stripe_account}.")
    agency = Agency(slug=slug, name=name, currency=currency, time_zone=time_zone, stripe_account=stripe_account)
    session.add(agency)
    session.flush()
    facts = {
        "id": agency.id,
        "slug": slug,
        "name": name,
        "currency": currency,
        "time_zone": time_zone,
        "stripe_account": stripe_account,
    }
    audit.record(session, "cli", "cli", "agency.created", slug, agency_id=agency.id, after=facts)
    return facts


def minimum(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> dict[str, int] | None:
    """`usd=100`, any number of them."""
    read = {}
    for word in given:
        currency, _, amount = word.partition("=")
        if not (amount.isascii() and amount.isdecimal()) or len(amount) > 10:
            raise click.BadParameter(f"{word[:40]!r} is no minimum: write it like usd=100, in the smallest unit.")
        if (currency := currency.strip().lower()) in read:
            raise click.BadParameter(f"{currency[:40]} has two minimums: give one of them.")
        read[currency] = int(amount)
    return read or None


@agency_commands.command("policy")
@click.argument("slug")
@click.option("--grants", help="prorated, full, credit or none.")
@click.option("--granularity", help="Lost time is rounded outward to the second, hour or day.")
@click.option("--gap", type=int, metavar="SECONDS", help="Two stretches that are closer count as one.")
@click.option("--recovery", type=int, metavar="SECONDS", help="So much after the end counts as lost, too.")
@click.option("--minimum", "minimums", multiple=True, callback=minimum, metavar="usd=100", help="May be repeated.")
@click.option("--below-minimum", help="carry: it waits for more of it; credit: it goes to the balance.")
@click.option("--pause-from", "pause_from_bp", type=int, metavar="BP", help="Pause from this lost share on.")
@click.option("--hold", help="Paused renewals: keep_as_draft or void.")
@click.option("--settle", help="At both (declaration and resolution), at resolution, or every --settle-days.")
@click.option("--settle-days", type=int, metavar="DAYS")
@click.option("--choice-days", type=int, metavar="DAYS", help="So long customers may choose; 0: they are not asked.")
@click.option(
    "--promise-days", type=int, metavar="DAYS",
    help="Business days until all money is to be back; where customers choose, counted from then on.",
)  # fmt: skip
@click.option(
    "--inherit", multiple=True, metavar="SETTING", help="Follow the operator's again in this; may be repeated."
)
@click.option("--by", metavar="EMAIL", help="Who sets it.")
@speaks
@needs_tables
def agency_policy(
    slug: str, inherit: tuple[str, ...], by: str | None, **wanted: Any
) -> tuple[dict[str, Any], list[str]]:
    """What an agency wants done in an outage: shown, or set with the options. What it does not say is the operator's.

    Runs that were planned already keep the policy that they were planned with.
    """
    changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
    known = Policy().to_json()
    for name in inherit:
        if name.replace("-", "_") not in known:
            raise Refusal(f"There is no setting called {name[:40]!r}: known are {', '.join(known)}.", "bad_request")
        changes[name.replace("-", "_")] = None
    with denials("agency.policy", by or "", slug), house().database.work(OPERATOR) as session:
        agency = session.scalar(sa.select(Agency).where(Agency.slug == slug))
        if agency is None:
            raise Refusal(f"There is no agency called {slug[:40]}.", "not_found")
        if changes:
            if by is None:
                raise click.UsageError("Say with --by who sets the policy.")
            set_policy(session, house().clock.now(), agency, changes, member_called(session, by), "cli")
        found = policies_in_force(session, [agency.id])[agency.id].to_json()
    return {"agency": slug, "policy": found}, [
        f"{name:<14} {', '.join(f'{key}={part}' for key, part in value.items()) if isinstance(value, dict) else value}"
        for name, value in found.items()
    ]


@member_commands.command("add")
@click.argument("email")
@click.option("--role", type=click.Choice([*STAFF_ROLES, *AGENCY_ROLES]), required=True)
@click.option("--agency", "slug", help="For agency-admin and agency-finance: whose person this is.")
@speaks
@needs_tables
def add_member(email: str, role: str, slug: str | None) -> tuple[dict[str, Any], list[str]]:
    """Add a person, with one role."""
    email = email.strip().lower()
    if not re.fullmatch(r"[^@\s,;<>\"()]{1,64}@[a-z0-9.-]{1,255}\.[a-z0-9-]{1,63}", email) or not email.isprintable():
        raise Refusal(f"{email[:80]!r} is no e-mail address.")
    if (role in AGENCY_ROLES) != (slug is not None):
        side = "needs --agency SLUG" if role in AGENCY_ROLES else "is the operator's: leave --agency out"
        raise click.UsageError(f"The role {role} {side}.")
    with house().database.work(OPERATOR) as session:
        agency_id = None if slug is None else session.scalar(sa.select(Agency.id).where(Agency.slug == slug))
        if slug is not None and agency_id is None:
            raise Refusal(f"There is no agency called {slug!r}.")
        member = session.scalar(sa.select(Member).where(Member.email == email))
        if member is not None and member.active:
            raise Refusal(f"{email} is a member already.")
        member = member or Member(email=email)
        member.role, member.agency_id, member.active = role, agency_id, True
        session.add(member)
        session.flush()
        facts = {"id": member.id, "email": email, "role": role, "agency": slug}
        audit.record(session, "cli", "cli", "member.added", email, agency_id=agency_id or 1, after=facts)
    return facts, [f"{email} is {role}{f' of {slug}' if slug else ''}."]


@member_commands.command("remove")
@click.argument("email")
@speaks
@needs_tables
def remove_member(email: str) -> tuple[dict[str, Any], list[str]]:
    """Let a person in no more, from this moment on. What they did stays theirs; `members add` takes them back."""
    with house().database.work(OPERATOR) as session:
        member = member_called(session, email)
        if factors.enrolled(session, member.id):
            factors.remove(session, member, "cli", "cli")
        people.shut_out(session, member, "cli", "cli")
    return {"email": member.email, "removed": True}, [f"{member.email} works here no longer."]


def lasting(command: Any) -> Any:
    """How long a sign-in link may wait to be opened."""
    return click.option(
        "--minutes",
        type=click.IntRange(1, 24 * 60),
        default=int(people.LINK_LASTS.total_seconds()) // 60,
        show_default=True,
        help="How long it may wait to be opened.",
    )(command)


@member_commands.command("link")
@click.argument("email")
@lasting
@speaks
@needs_tables
def link_member(email: str, minutes: int) -> tuple[dict[str, Any], list[str]]:
    """A link that signs this person in, once."""
    settings = house().settings
    with house().database.work(OPERATOR) as session:
        member = member_called(session, email)
        token = people.link_for_member(
            session, member, settings.secret_key, "cli", "cli", lasts=timedelta(minutes=minutes)
        )
    return spoken_link(token, member.email, minutes)


@member_commands.command("enrol")
@click.argument("email")
@speaks
@needs_tables
def enrol_member(email: str) -> tuple[dict[str, Any], list[str]]:
    """A second factor for this person: shown this once, for their authenticator. One that they had works no longer."""
    with house().database.work(OPERATOR) as session:
        member = member_called(session, email)
        secret, address = factors.enrol(session, member, "cli", "cli")
    picture = io.StringIO()
    segno.make_qr(address).terminal(picture, border=2, compact=True)
    return {"email": member.email, "secret": secret, "address": address}, [
        f"{member.email} has a second factor. Their authenticator scans this, or takes the secret. It is shown once.",
        *picture.getvalue().splitlines(),
        address,
        secret,
    ]


@member_commands.command("unenrol")
@click.argument("email")
@speaks
@needs_tables
def unenrol_member(email: str) -> tuple[dict[str, Any], list[str]]:
    """Take this person's second factor away, say because their device is lost."""
    with house().database.work(OPERATOR) as session:
        member = member_called(session, email)
        factors.remove(session, member, "cli", "cli")
    return {"email": member.email, "enrolled": False}, [f"{member.email} has no second factor any more."]


def spoken_link(token: str, name: str, minutes: int) -> tuple[dict[str, Any], list[str]]:
    """A sign-in link as a command says it."""
    link = f"{house().settings.public_url}/sign-in/{token}"
    return {"link": link, "signs_in": name, "minutes": minutes}, [link]
