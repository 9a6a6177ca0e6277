"""`/console/incidents/<id>/report`: what an incident cost, as a page and as files; and the register of what customers
say they lost besides."""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, Final

from flask import Blueprint, redirect, render_template, request, url_for
from sqlalchemy.orm import Session
from werkzeug.wrappers import Response

from billing import formats
from billing.outages import damages, forms, journal, papers, queries
from billing.outages import report as reporting
from tenants import access
from tenants.db import OPERATOR
from tenants.models import Member

blueprint = Blueprint("reports", __name__, template_folder="templates", url_prefix="/console/incidents/<incident_id>")
formats.written_on(blueprint)

CLAIMANT: Final = "The operator of this service"
IN_ONE_PIECE: Final = 500
"""Lines of a file that are sent together."""


@blueprint.get("/report")
@access.staff()
def page(incident_id: str) -> str:
    """The numbers, and the register with its form."""
    house = access.house()
    with house.database.work(OPERATOR) as session:
        report = reporting.report(session, house.clock.now(), incident_id)
    return render_template("outages/report.html", report=report, form=forms.fresh(), fates=queries.FATES)


@blueprint.get("/report.csv")
@access.staff()
def documents(incident_id: str) -> Response:
    """Every grant with its documents; streamed, however many they are."""
    return _streamed(incident_id, "documents", lambda session: papers.documents_csv(_documents(session, incident_id)))


@blueprint.get("/journal.csv")
@access.staff()
def entries(incident_id: str) -> Response:
    """The journal entries, debits equal to credits."""
    return _streamed(
        incident_id, "journal",
        lambda session: papers.journal_csv(journal.postings(_documents(session, incident_id), incident_id)),
    )  # fmt: skip


@blueprint.get("/report.pdf")
@access.staff()
def paper(incident_id: str) -> Response:
    """The report on paper, with the list of documents attached."""
    with access.house().database.work(OPERATOR) as session:
        report, evidence = _whole(session, access.house().clock.now(), incident_id)
    return _file(papers.report_pdf(report, evidence), f"{incident_id}-report.pdf")


@blueprint.get("/claim.pdf")
@access.staff()
def claim(incident_id: str) -> Response:
    """The letter to the upstream, with the evidence attached."""
    with access.house().database.work(OPERATOR) as session:
        report, evidence = _whole(session, access.house().clock.now(), incident_id)
    return _file(papers.claim_pdf(report, evidence, CLAIMANT), f"{incident_id}-claim.pdf")


@blueprint.post("/damages")
@access.noted("damage.report_refused")
@access.staff("finance")
def add_damage(incident_id: str) -> Response:
    """Enter what a customer says it lost."""
    house, form = access.house(), request.form
    loss = damages.read_amount(form.get("amount", ""), damages.currency_called(form.get("currency", "")))
    with house.database.work(OPERATOR) as session:
        by = session.get_one(Member, access.person().member_id)
        damages.report(
            session, house.clock.now(), incident_id, form.get("customer", "").strip(), loss, form.get("what", ""), by,
            "console", form=forms.sent(form),
        )  # fmt: skip
    return redirect(url_for("reports.page", incident_id=incident_id) + "#damages", 303)


def _documents(session: Session, incident_id: str) -> Iterator[reporting.Document]:
    return reporting.documents(session, incident_id)


def _whole(session: Session, now: datetime, incident_id: str) -> tuple[dict[str, Any], str]:
    report = reporting.report(session, now, incident_id)
    return report, "".join(papers.documents_csv(_documents(session, incident_id)))


def _streamed(incident_id: str, what: str, lines: Any) -> Response:
    house = access.house()
    with house.database.work(OPERATOR) as session:
        queries.find(session, incident_id)

    def stream() -> Iterator[str]:
        with house.database.work(OPERATOR) as session:
            yield from lines(session)

    answer = Response(_batched(stream()), content_type="text/csv; charset=utf-8")
    answer.headers["Content-Disposition"] = f'attachment; filename="{incident_id}-{what}.csv"'
    return answer


def _batched(lines: Iterator[str]) -> Iterator[str]:
    """Some hundred lines in one piece: a piece of its own for each line costs more than the line."""
    while piece := "".join(islice(lines, IN_ONE_PIECE)):
        yield piece


def _file(content: bytes, name: str) -> Response:
    answer = Response(content, content_type="application/pdf")
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer
