"""What a person does by hand: lift, note, try again, enter, and set what needs no person."""

import click

from billing.money import Money, plain
from billing.outages import automatic, by_hand, damages, freezing, planning
from billing.outages.cli.options import Spoken, denials, incident_commands
from tenants.cli import agency_commands
from tenants.commands import NUMBER, house, member_called, needs_tables, speaks
from tenants.db import OPERATOR


@incident_commands.command("lift")
@click.argument("invoice_id", metavar="INVOICE")
@click.option("--reason", required=True, help="What you found; kept in the audit log.")
@click.option("--by", required=True, metavar="EMAIL")
@speaks
@needs_tables
def lift(invoice_id: str, reason: str, by: str) -> Spoken:
    """Give again for an invoice that was frozen because our books and Stripe's differed."""
    with denials("lift", by, invoice_id, of="invoice"), house().database.work(OPERATOR) as session:
        reasons = freezing.lift(session, invoice_id, member_called(session, by), reason, "cli")
    return {"lifted": invoice_id, "reasons": reasons}, [f"It goes on. It stood still because: {' '.join(reasons)}"]


@incident_commands.command("paid")
@click.argument("grant_id", metavar="GRANT", type=NUMBER)
@click.option("--by", required=True, metavar="EMAIL", help="Who notes it.")
@click.option("--note", required=True, help="How it was paid, e.g. the bank's reference.")
@speaks
@needs_tables
def note_payment(grant_id: int, by: str, note: str) -> Spoken:
    """Note that what Stripe cannot pay back has been paid by hand."""
    with denials("paid", by, str(grant_id), of="grant"), house().database.work(OPERATOR) as session:
        paid = by_hand.record(session, house().clock.now(), grant_id, member_called(session, by), note, "cli")
        document = {"grant": grant_id, "amount": paid.amount, "currency": paid.currency}
    return document, [f"Noted: grant {grant_id} has been paid by hand."]


@incident_commands.command("retry")
@click.argument("grant_id", metavar="GRANT", type=NUMBER)
@click.option("--by", required=True, metavar="EMAIL", help="Who has looked.")
@click.option("--reason", required=True, help="What was seen in Stripe.")
@speaks
@needs_tables
def retry(grant_id: int, by: str, reason: str) -> Spoken:
    """Try a grant again that waits for a person: it is looked for once more, and else sent under a new key."""
    with denials("retry", by, str(grant_id), of="grant"), house().database.work(OPERATOR) as session:
        steps = by_hand.retry(session, grant_id, member_called(session, by), reason, "cli")
    return {"grant": grant_id, "steps": steps}, [f"Grant {grant_id} is tried again: {len(steps)} calls."]


@incident_commands.command("damage")
@click.argument("incident_id", metavar="ID")
@click.option("--customer", "customer_id", required=True, metavar="cus_…")
@click.option("--amount", required=True, help="As people write it, e.g. 45.00.")
@click.option("--currency", required=True, help="usd, eur, …")
@click.option("--what", required=True, help="What was lost.")
@click.option("--by", required=True, metavar="EMAIL", help="Who enters it.")
@speaks
@needs_tables
def enter_damage(incident_id: str, customer_id: str, amount: str, currency: str, what: str, by: str) -> Spoken:
    """Enter what a customer says it lost besides the paid time: evidence, which pays nothing."""
    loss = damages.read_amount(amount, damages.currency_called(currency))
    with denials("report", by, incident_id, of="damage"), house().database.work(OPERATOR) as session:
        person = member_called(session, by)
        damages.report(session, house().clock.now(), incident_id, customer_id, loss, what, person, "cli")
        entries = damages.reported(session, incident_id)
    return {"damages": entries}, [f"Entered; {len(entries):,} are reported for {incident_id}."]


@agency_commands.command("limit")
@click.argument("slug")
@click.option("--currency", metavar="usd", help="Which currency's limit to set; left out: show them all.")
@click.option("--per-run", type=int, help="So much of one incident approves itself in a day.")
@click.option("--per-day", type=int, help="So much of all incidents together approves itself in a day.")
@click.option("--by", metavar="EMAIL", help="Who sets it; never who declares.")
@speaks
@needs_tables
def agency_limit(slug: str, currency: str | None, per_run: int | None, per_day: int | None, by: str | None) -> Spoken:
    """What approves itself: shown, or set. Amounts in the currency's smallest unit; 0: a person approves everything."""
    wanted = (currency, per_run, per_day, by)
    now = house().clock.now()
    with denials("limit", by, slug, of="agency"), house().database.work(OPERATOR) as session:
        (agency,) = planning.agencies_of(session, [slug])
        if any(word is not None for word in wanted):
            if currency is None or per_run is None or per_day is None or by is None:
                raise click.UsageError("To set a limit say --currency, --per-run, --per-day and --by.")
            person = member_called(session, by)
            automatic.set_limit(session, now, agency, currency.lower(), per_run, per_day, person, "cli")
        limits = [automatic.to_json(limit) for limit in automatic.limits_of(session, agency.id)]
    return {"agency": slug, "limits": limits}, [
        f"{plain(Money(one['per_run'], one['currency']))} per incident and day,"
        f" {plain(Money(one['per_day'], one['currency']))} per day, since {one['set_at']}"
        for one in limits
    ] or [f"Nothing of {slug} approves itself: a person approves everything."]
