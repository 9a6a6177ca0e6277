"""`flask stripe` and `flask plans`: adopt an account, hold the mirror against it, say what plans depend on."""

import re
from datetime import datetime, timedelta
from typing import Any, Final

import click
import sqlalchemy as sa

from billing import catalog, check, circuits, gateway, importing
from billing.owners import customer_called
from billing.windows import parse_time
from tenants import people
from tenants.cli import lasting, spoken_link
from tenants.commands import Commands, Refusal, house, needs_tables, speaks
from tenants.db import OPERATOR
from tenants.models import Agency

stripe_commands = Commands("stripe", help="The mirror of what was sold in Stripe.")
plan_commands = Commands("plans", help="Plans and the platforms that they depend on.")
DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
customer_commands = Commands("customers", help="Customers: the businesses that are billed.")


def _account_of(slug: str | None) -> str:
    """The Stripe account that an agency's customers are in; '' is the operator's own."""
    if slug is None:
        return ""
    with house().database.work(OPERATOR) as session:
        agency = session.scalar(sa.select(Agency).where(Agency.slug == slug))
    if agency is None:
        raise Refusal(f"There is no agency called {slug}.")
    return agency.stripe_account or ""


@stripe_commands.command("import")
@click.option("--agency", "slug", help="An agency with its own Stripe account; default: the operator's account.")
@click.option("--since", help="Leave out invoices made before this time, e.g. 2019-01-01T00:00Z.")
@speaks
@needs_tables
def import_from_stripe(slug: str | None, since: str | None) -> tuple[dict[str, Any], list[str]]:
    """Read a whole account into the mirror. Repeatable without effect, and goes on where it was cut off."""
    start: datetime | None = None if since is None else parse_time(f"{since}T00:00Z" if DAY.fullmatch(since) else since)
    account = _account_of(slug)
    circuits.asked_by_a_person(house())
    gateway.connect(house(), account).available_balance()  # a key that is refused is so before anything is written
    from rich.console import Console  # no other command draws anything, and all would wait for it to be loaded
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    screen = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal)
    with bar:
        tasks: dict[str, Any] = {}

        def progress(kind: str, done: int, total: int) -> None:
            if kind not in tasks:
                tasks[kind] = bar.add_task(kind.replace("_", " "), total=total)
            bar.update(tasks[kind], completed=done, total=total)

        report = importing.import_account(house(), account, since=start, progress=progress)
    document = report.to_json()
    counts = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in document["objects"].items())
    return document, [f"Imported {counts}.", *document["warnings"]]


@stripe_commands.command("check")
@click.option("--agency", "slug", help="An agency with its own Stripe account; default: the operator's account.")
@speaks
@needs_tables
def check_against_stripe(slug: str | None) -> tuple[dict[str, Any], list[str]]:
    """Hold the mirror against Stripe, object by object. Exits 1 when anything differs."""
    circuits.asked_by_a_person(house())
    differences = check.check(house(), _account_of(slug))
    if differences:
        raise Differences([str(difference) for difference in differences])
    with house().database.work(OPERATOR) as session:
        warnings = catalog.refused_weights(session)
    return {"differences": [], "warnings": warnings}, ["The mirror and Stripe agree on every object.", *warnings]


class Differences(Exception):
    """The mirror and Stripe do not agree; the message lists every difference."""

    status, code = 409, "differences"

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join([*lines, f"{len(lines)} differences. `flask stripe import` repairs the mirror."]))


@plan_commands.command("list")
@speaks
@needs_tables
def list_plans() -> tuple[dict[str, Any], list[str]]:
    """Every plan with its price and weights, and which platforms are disabled."""
    with house().database.work(OPERATOR) as session:
        plans, platforms = catalog.plans(session), catalog.platforms(session)
        refused = catalog.refused_weights(session)
    lines = [
        f"{plan['id']:<32} {plan['name']:<24} {catalog.price_in_words(plan):<28}"
        f" {plan['weights_text'] or 'depends on no platform'}"
        for plan in plans
    ]
    lines = lines or ["No plans yet: run `flask stripe import`."]
    disabled = [one["slug"] for one in platforms if not one["enabled"]]
    lines += [f"Disabled, so that no outage of them can be declared: {', '.join(disabled)}."] if disabled else []
    return {"plans": plans, "platforms": platforms}, lines + refused


@plan_commands.command("weigh")
@click.argument("price_or_product")
@click.argument("weights", nargs=-1, required=True, metavar="PLATFORM=BASIS_POINTS…")
@click.option("--new-platform", is_flag=True, help="Accept the name of a platform that is not known yet.")
@speaks
@needs_tables
def weigh_plan(price_or_product: str, weights: tuple[str, ...], new_platform: bool) -> tuple[dict[str, Any], list[str]]:
    """Say which share of a plan's value each platform carries, e.g. facebook=6000 instagram=4000."""
    parts = [part for word in weights for part in re.split(r"[,\s]+", word) if part]
    with house().database.work(OPERATOR) as session:
        plans = catalog.weigh(
            session,
            price_or_product,
            catalog.parse_weights(",".join(parts)),
            by="cli",
            origin="cli",
            new_platform=new_platform,
        )
    return {"plans": plans}, [f"{plan['id']} now depends on {plan['weights_text'] or 'no platform'}." for plan in plans]


@plan_commands.command("disable")
@click.argument("platform")
@speaks
@needs_tables
def disable_platform(platform: str) -> tuple[dict[str, Any], list[str]]:
    """Let no outage of PLATFORM be declared from now on. Incidents that stand go on."""
    with house().database.work(OPERATOR) as session:
        catalog.disable(session, platform, "cli", "cli")
    return {"platform": platform, "enabled": False}, [
        f"{platform} is disabled: no outage of it can be declared. Incidents that stand go on."
    ]


@plan_commands.command("enable")
@click.argument("platform")
@speaks
@needs_tables
def enable_platform(platform: str) -> tuple[dict[str, Any], list[str]]:
    """Let outages of PLATFORM be declared again."""
    with house().database.work(OPERATOR) as session:
        catalog.enable(session, platform, "cli", "cli")
    return {"platform": platform, "enabled": True}, [f"{platform} is enabled: outages of it can be declared."]


@customer_commands.command("link")
@click.argument("customer_id", metavar="cus_…")
@lasting
@speaks
@needs_tables
def link_customer(customer_id: str, minutes: int) -> tuple[dict[str, Any], list[str]]:
    """A link that signs this customer in, once."""
    with house().database.work(OPERATOR) as session:
        customer = customer_called(session, customer_id)
        token = people.link_for_customer(
            session,
            customer.agency_id,
            customer.id,
            house().settings.secret_key,
            "cli",
            "cli",
            lasts=timedelta(minutes=minutes),
        )
    return spoken_link(token, customer_id, minutes)
