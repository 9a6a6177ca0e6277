"""Read models: an incident as scripts and pages rely on it, the list of them, the grants of one."""

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from billing.errors import NotFound
from billing.models import Customer, Platform
from billing.money import Money, Totals, plain
from billing.outages import changes, fingerprints, funding
from billing.outages.decisions import Goodwill, IncidentVersion, Retirement
from billing.outages.models import Control, Grant, HeldInvoice, Incident, IncidentScope, Pause, Run, RunTotal, Update
from billing.windows import iso
from tenants.models import Agency, Member

COUNTED = {
    "succeeded": ("succeeded",),
    "pending": ("pending", "sent", "unknown", "blocked"),
    "failed": ("failed",),
    "needs_person": ("needs_person",),
    "given_elsewhere": ("given_elsewhere",),
    "cancelled": ("cancelled",),
}
"""What a run counts its grants as, by their states; what is left is waiting for its turn."""


FATES = {
    ("cancel", "planned"): "still to be ended",
    ("cancel", "done"): "ended",
    ("cancel", "needs_person"): "that a person has to end",
    ("move", "planned"): "still to be moved to another plan",
    ("move", "done"): "moved to another plan",
    ("move", "needs_person"): "that a person has to move to another plan",
}
"""What becomes of a subscription whose platform does not come back, by the kind and the state of its retirement."""
RUN_STATES = ("waiting", "running", "halted", "declined", "done", "superseded")
"""The most urgent first."""
GAVE_WAY = ("superseded", "declined")
"""Runs that give nothing back and never will."""


def find(session: Session, incident_id: str) -> Incident:
    """Raises `NotFound` when it is not there, or not theirs to see."""
    incident = session.get(Incident, incident_id) if "\x00" not in incident_id else None
    if incident is None:
        raise NotFound(f"There is no incident {incident_id[:40]!r}. `flask incidents list` shows those there are.")
    return incident


def listed(session: Session) -> list[dict[str, Any]]:
    """Every incident in sight, newest first, without its runs."""
    rows = session.execute(
        sa.select(Incident, Platform)
        .join(Platform, Platform.id == Incident.platform_id)
        .order_by(Incident.declared_at.desc(), Incident.id)
    )
    return [_facts(incident, platform) for incident, platform in rows]


def shown(session: Session, incident_id: str) -> dict[str, Any]:
    """One incident with its runs, pauses, held invoices, retired subscriptions and updates. Raises `NotFound`.

    `fingerprint` names what waits for an approval, and is None when nothing does; `by_agency` says the same of each
    agency alone, and how far it has come; `lacking` names the balances in Stripe that hold refunds up.
    """
    incident = find(session, incident_id)
    platform = session.get_one(Platform, incident.platform_id)
    agencies = {agency.id: agency.slug for agency in session.scalars(sa.select(Agency))}
    runs = list(session.scalars(sa.select(Run).where(Run.incident_id == incident_id).order_by(Run.no, Run.agency_id)))
    counts = _grant_counts(session, incident_id)
    totals = _run_totals(session, [run.id for run in runs])
    waiting = [(run.agency_id, run.fingerprint) for run in runs if run.state == "waiting"]
    declared_by = session.get(Member, incident.declared_by)
    control = session.get(Control, f"incident:{incident_id}")
    goodwill = _goodwill(session, incident_id)
    told = [_run(run, agencies, counts.get(run.id, {}), totals.get(run.id, [])) for run in runs]
    return {
        **_facts(incident, platform),
        "agencies": _scope(session, incident_id) or None,
        "policy": incident.policy,
        "declared_by": declared_by.email if declared_by else None,
        "fingerprint": fingerprints.of_incident(waiting) if waiting else None,
        "halted": (control is not None and not control.sending) or any(run.state == "halted" for run in runs),
        "runs": told,
        "totals": _summed({run.id: totals.get(run.id, []) for run in runs if run.state not in GAVE_WAY}),
        "waiting_totals": _summed({run.id: totals.get(run.id, []) for run in runs if run.state == "waiting"}),
        "goodwill": sum(goodwill.values(), Totals()).to_json(),
        "lacking": funding.lacking(session, incident_id),
        "by_agency": _by_agency(runs, told, goodwill),
        "changed": [change.to_json() for change in changes.of_waiting(session, incident_id)[: changes.SHOWN]],
        "versions": _versions(session, incident_id),
        "pauses": _pauses(session, incident_id),
        "held_invoices": _held_invoices(session, incident_id),
        "retired": retired(session, incident_id),
        "updates": [
            {"at": iso(update.published_at), "state": update.state, "body": update.body}
            for update in session.scalars(
                sa.select(Update)
                .where(Update.incident_id == incident_id)
                .order_by(Update.published_at.desc(), Update.id.desc())
            )
        ],
    }


def grants_of(session: Session, incident_id: str, after: int = 0, limit: int = 100) -> list[dict[str, Any]]:
    """The next `limit` grants of an incident after the one with id `after`."""
    find(session, incident_id)
    rows = session.execute(
        sa.select(Grant, Agency.slug, Customer.name)
        .join(Agency, Agency.id == Grant.agency_id)
        .join(Customer, sa.and_(Customer.agency_id == Grant.agency_id, Customer.id == Grant.customer_id))
        .where(Grant.incident_id == incident_id, Grant.id > after, Grant.state != "cancelled")
        .order_by(Grant.id)
        .limit(limit)
    )
    return [
        {
            "id": grant.id,
            "agency": slug,
            "customer": grant.customer_id,
            "customer_name": name,
            "invoice": grant.invoice_id,
            "currency": grant.currency,
            "amount": grant.amount,
            "channel": grant.channel,
            "parts": {
                "refund": grant.refund, "credit": grant.credit, "reduce": grant.reduce,
                "out_of_band": grant.out_of_band,
            },
            "state": grant.state,
            "reason": grant.reason,
            "run": grant.run_id,
            "fallback_of": grant.fallback_of,
        }
        for grant, slug, name in rows
    ]  # fmt: skip


def in_words(document: dict[str, Any]) -> list[str]:
    """`shown` for a person."""
    open_ended = {"retracted": "to its retraction", "retired": "for good"}.get(document["state"], "still going on")
    until = f"to {document['ended_at']}" if document["ended_at"] else open_ended
    lines = [f"{document['id']}  {document['title']}: {document['state']}", f"  from {document['started_at']} {until}"]
    for run in document["runs"]:
        amounts = ", ".join(plain(Money(one["amount"], one["currency"])) for one in run["totals"]) or "nothing owed"
        lines.append(
            f"  run {run['no']} for {run['agency']}: {run['state']}, {run['planned']:,} grants,"
            f" {run['succeeded']:,} done, {run['needs_person']:,} for a person ({amounts})"
        )
    stopped = [run for run in document["runs"] if run["halt_reason"]]
    lines += [f"  run {run['no']} for {run['agency']} halted itself: {run['halt_reason']}" for run in stopped]
    if stopped:
        lines.append(f"    when you have looked: flask incidents continue {document['id']}")
    lines += [
        f"  goodwill, given for time that was not lost after all: {plain(Money(one['amount'], one['currency']))}"
        for one in document["goodwill"]
    ]
    lines += [
        f"  {version['what']} on {version['at']} by {version['by']}: {version['reason']}"
        for version in document["versions"][1:]
    ]
    lines.append(
        "  pauses: " + (", ".join(f"{count:,} {state}" for state, count in document["pauses"].items()) or "none")
    )
    if document["held_invoices"]:
        counts = ", ".join(f"{count:,} {_said(state)}" for state, count in document["held_invoices"].items())
        lines.append(f"  invoices held: {counts}")
    lines += [f"  subscriptions {FATES[one['kind'], one['state']]}: {one['count']:,}" for one in document["retired"]]
    lines += [f"  {sentence}" for sentence in funding.lacking_in_words(document["lacking"])]
    if document["fingerprint"]:
        lines.append(f"  waiting for a second person: flask incidents approve {document['id']} --by EMAIL")
        lines.append(f"    --fingerprint {document['fingerprint']}")
    return lines


def retired(session: Session, incident_id: str, agency: str | None = None) -> list[dict[str, Any]]:
    """What becomes of the subscriptions because the platform does not come back: a `count` by `kind` and `state`, for
    all agencies in sight or for the one with that slug. `needs_person` is what Stripe refused, and what was sold since.
    """
    found = (
        sa.select(Retirement.kind, Retirement.state, sa.func.count().label("count"))
        .join(Agency, Agency.id == Retirement.agency_id)
        .where(Retirement.incident_id == incident_id)
        .group_by(Retirement.kind, Retirement.state)
        .order_by(Retirement.kind, Retirement.state)
    )
    if agency is not None:
        found = found.where(Agency.slug == agency)
    return [dict(row) for row in session.execute(found).mappings()]


def _said(state: str) -> str:
    return "for a person" if state == "needs_person" else state


def _scope(session: Session, incident_id: str) -> list[str]:
    """The slugs of the agencies that it is limited to; none: it covers all of them."""
    limited_to = sa.select(IncidentScope.agency_id).where(IncidentScope.incident_id == incident_id)
    return list(session.scalars(sa.select(Agency.slug).where(Agency.id.in_(limited_to)).order_by(Agency.id)))


def _facts(incident: Incident, platform: Platform) -> dict[str, Any]:
    return {
        "id": incident.id,
        "state": incident.state,
        "platform": platform.slug,
        "platform_name": platform.name,
        "title": incident.title,
        "started_at": iso(incident.started_at),
        "ended_at": iso(incident.ended_at) if incident.ended_at else None,
        "impact": incident.impact_bp,
        "declared_at": iso(incident.declared_at),
        "promise_at": iso(incident.promise_at),
    }


def _run(run: Run, agencies: dict[int, str], counts: dict[str, int], totals: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": run.id,
        "agency": agencies.get(run.agency_id),
        "no": run.no,
        "purpose": run.purpose,
        "state": run.state,
        "policy": run.policy,
        "as_of": iso(run.as_of),
        "fingerprint": run.fingerprint,
        "approval": run.approval,
        "decline_reason": run.decline_reason,
        "halt_reason": run.halt_reason,
        "opened_to": run.opened_to,
        "planned": sum(counts.values()),
        **{name: sum(counts.get(state, 0) for state in states) for name, states in COUNTED.items()},
        "totals": totals,
        "left_out": run.left_out,
    }


def _grant_counts(session: Session, incident_id: str) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = {}
    rows = session.execute(
        sa.select(Grant.run_id, Grant.state, sa.func.count())
        .where(Grant.incident_id == incident_id, Grant.fallback_of.is_(None))
        .group_by(Grant.run_id, Grant.state)
    )
    for run_id, state, count in rows:
        counted.setdefault(run_id, {})[state] = count
    return counted


def _by_agency(runs: list[Run], told: list[dict[str, Any]], goodwill: dict[int, Totals]) -> list[dict[str, Any]]:
    """Each agency's runs together, superseded ones left out: what scripts and pages show beside the whole."""
    together: defaultdict[int, list[tuple[Run, dict[str, Any]]]] = defaultdict(list)
    for run, document in zip(runs, told, strict=True):
        if run.state != "superseded":
            together[run.agency_id].append((run, document))
    return [
        {
            "agency": of_agency[-1][1]["agency"],
            "policy": of_agency[-1][1]["policy"],
            "state": min((run.state for run, _ in of_agency), key=RUN_STATES.index),
            "fingerprint": next(
                (
                    fingerprints.of_incident([(agency_id, run.fingerprint)])
                    for run, _ in of_agency
                    if run.state == "waiting"
                ),
                None,
            ),
            **{
                name: sum(document[name] for _, document in of_agency)
                for name in ("planned", *COUNTED)
            },
            "totals": _summed(
                {run.id: document["totals"] for run, document in of_agency if run.state not in GAVE_WAY}
            ),
            "goodwill": goodwill.get(agency_id, Totals()).to_json(),
        }
        for agency_id, of_agency in sorted(together.items())
    ]  # fmt: skip


def _goodwill(session: Session, incident_id: str) -> dict[int, Totals]:
    """Per agency: what was given for time that was not lost after all."""
    found: defaultdict[int, Totals] = defaultdict(Totals)
    rows = session.execute(
        sa.select(Goodwill.agency_id, Goodwill.currency, sa.func.sum(Goodwill.amount), sa.func.count())
        .where(Goodwill.incident_id == incident_id, Goodwill.amount > 0)
        .group_by(Goodwill.agency_id, Goodwill.currency)
    )
    for agency_id, currency, amount, count in rows:
        found[agency_id].add(Money(int(amount), currency), invoices=count)
    return dict(found)


def _versions(session: Session, incident_id: str) -> list[dict[str, Any]]:
    """What the incident said from when on, and who said so; the newest last."""
    rows = session.execute(
        sa.select(IncidentVersion, Member.email)
        .join(Member, Member.id == IncidentVersion.by)
        .where(IncidentVersion.incident_id == incident_id)
        .order_by(IncidentVersion.no)
    )
    return [
        {
            "no": version.no, "what": version.what, "at": iso(version.at), "by": email, "reason": version.reason,
            "started_at": iso(version.started_at), "ended_at": iso(version.ended_at) if version.ended_at else None,
            "impact": version.impact_bp,
        }
        for version, email in rows
    ]  # fmt: skip


def _run_totals(session: Session, runs: list[str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for total in session.scalars(sa.select(RunTotal).where(RunTotal.run_id.in_(runs)).order_by(RunTotal.currency)):
        one = {"currency": total.currency, "amount": total.approved, "sent": total.sent}
        found.setdefault(total.run_id, []).append(one)
    return found


def _summed(totals: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    summed: dict[str, dict[str, Any]] = {}
    for of_run in totals.values():
        for total in of_run:
            one = summed.setdefault(total["currency"], {"currency": total["currency"], "amount": 0, "sent": 0})
            one["amount"] += total["amount"]
            one["sent"] += total["sent"]
    return [summed[currency] for currency in sorted(summed)]


def _pauses(session: Session, incident_id: str) -> dict[str, int]:
    rows = session.execute(
        sa.select(Pause.state, sa.func.count()).where(Pause.incident_id == incident_id).group_by(Pause.state)
    )
    return {"held": 0, "released": 0, **dict(rows.all())}


def _held_invoices(session: Session, incident_id: str) -> dict[str, int]:
    rows = session.execute(
        sa.select(HeldInvoice.state, sa.func.count(HeldInvoice.invoice_id.distinct()))
        .join(Pause, sa.and_(Pause.agency_id == HeldInvoice.agency_id, Pause.id == HeldInvoice.pause_id))
        .where(Pause.incident_id == incident_id)
        .group_by(HeldInvoice.state)
        .order_by(HeldInvoice.state)
    )
    return dict(rows.all())
