"""Incidents as they are, held against Stripe, explained and reported. Nothing here changes one."""

from pathlib import Path

import click

from billing import circuits
from billing.errors import BadRequest
from billing.outages import (
    bookkeeping,
    by_hand,
    explain,
    journal,
    oversight,
    papers,
    planning,
    queries,
    reconcile,
    suspicions,
)
from billing.outages import report as reporting
from billing.outages.cli.options import Spoken, incident_commands, seen_through
from tenants.commands import house, needs_tables, speaks
from tenants.db import OPERATOR


@incident_commands.command("list")
@speaks
@needs_tables
def list_incidents() -> Spoken:
    """Every incident, newest first; those that are only suspected before the others."""
    with house().database.work(OPERATOR) as session:
        found = [*suspicions.listed(session), *queries.listed(session)]
    lines = [
        f"{one['id']}  {one['state']:<9}  {one['platform']:<10}  {one['started_at']}  {one['title']}" for one in found
    ]
    return {"incidents": found}, lines or ["No incident has been declared."]


@incident_commands.command("show")
@click.argument("incident_id", metavar="ID")
@speaks
@needs_tables
def show(incident_id: str) -> Spoken:
    """One incident: its runs, pauses and totals."""
    return seen_through(incident_id, wait=False)


@incident_commands.command("explain")
@click.argument("incident_id", metavar="ID")
@click.option("--customer", "customer_id", required=True, metavar="cus_…")
@speaks
@needs_tables
def explain_customer(incident_id: str, customer_id: str) -> Spoken:
    """One customer's arithmetic, from the facts that were kept when it was granted."""
    with house().database.work(OPERATOR) as session:
        document = explain.explain(session, incident_id, customer_id)
    return document, document["text"]


@incident_commands.command("reconcile")
@click.argument("incident_id", metavar="[ID]", required=False)
@speaks
@needs_tables
def reconcile_incident(incident_id: str | None) -> Spoken:
    """Our books against Stripe's, object by object: of one incident, or of everything in 90 days.

    Without ID what must always hold in our own rows is looked at, too. Exits 1 when anything differs.
    """
    circuits.asked_by_a_person(house())
    if incident_id is not None:
        report = bookkeeping.of_incident(house(), incident_id)
    else:
        with house().database.work(OPERATOR) as session:
            broken = oversight.check(session)
        if broken:
            raise oversight.Broken(broken)
        report = bookkeeping.of_everything(house())
    if report.differences:
        raise reconcile.DoesNotAgree(report)
    return report.to_json(), report.in_words()


@incident_commands.command("report")
@click.argument("incident_id", metavar="ID")
@click.option("--format", "form", type=click.Choice(["text", "csv", "pdf", "journal", "claim"]), default="text")
@click.option("--agency", metavar="SLUG", help="Only this agency's part.")
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), help="Where a file goes, instead of printed."
)
@click.option("--claimant", default="", help="Who claims, as the letter says it.")
@speaks
@needs_tables
def report_incident(incident_id: str, form: str, agency: str | None, output: Path | None, claimant: str) -> Spoken:
    """What the incident cost: for a person, as CSV of every grant, PDF, journal entries, or the claim letter (PDF)."""
    if form in ("pdf", "claim") and output is None:
        raise click.UsageError("A PDF is no text: say with --output where it is to go.")
    with house().database.work(OPERATOR) as session:
        if agency is not None:
            planning.agencies_of(session, [agency])
        told = reporting.report(session, house().clock.now(), incident_id, agency)
        documents = reporting.documents(session, incident_id, agency)
        if form == "text":
            made: str | bytes = "\n".join(papers.in_lines(told))
        elif form == "journal":
            made = "".join(papers.journal_csv(journal.postings(documents, incident_id)))
        elif form == "csv":
            made = "".join(papers.documents_csv(documents))
        else:
            evidence = "".join(papers.documents_csv(documents))
            made = (
                papers.report_pdf(told, evidence)
                if form == "pdf"
                else papers.claim_pdf(told, evidence, claimant or "The operator of this service")
            )
    if output is None:
        assert isinstance(made, str)
        return told, made.splitlines()
    try:
        output.write_bytes(made if isinstance(made, bytes) else made.encode())
    except OSError as error:
        raise BadRequest(f"{output} cannot be written: {error.strerror}.") from error
    return told | {"output": str(output)}, [f"Written to {output}."]


@incident_commands.command("waiting")
@speaks
@needs_tables
def list_waiting() -> Spoken:
    """Everything that waits for a person, of all incidents."""
    with house().database.work(OPERATOR) as session:
        found = by_hand.waiting(session)
    return found, by_hand.in_words(found)
