"""`flask webhooks`: where agencies want to be told. `flask monitors`: who may propose incidents."""

from typing import Any, TextIO

import click
import sqlalchemy as sa

from billing.errors import NotFound, nearest
from tenants.commands import NUMBER, Commands, TextFile, denials, house, member_called, needs_tables, speaks
from tenants.db import OPERATOR
from tenants.models import Agency
from webhooks import alerts, deliveries, endpoints, monitors

webhook_commands = Commands("webhooks", help="Signed webhooks to agencies: their endpoints and what was sent.")
monitor_commands = Commands("monitors", help="Alertmanager, PagerDuty and Statuspage, which may propose incidents.")
MOST = 10_000

Spoken = tuple[dict[str, Any], list[str]]
BY = click.option("--by", required=True, metavar="EMAIL")


@webhook_commands.command("add")
@click.argument("agency_slug", metavar="AGENCY")
@click.argument("url", metavar="URL")
@BY
@speaks
@needs_tables
def add(agency_slug: str, url: str, by: str) -> Spoken:
    """Tell an agency's server what is published and what goes back, from now on. Shows its secret, this once."""
    with denials("webhook.add", by, agency_slug), house().database.work(OPERATOR) as session:
        endpoint, secret = endpoints.add(
            session, _agency(session, agency_slug), url, member_called(session, by), "cli",
            house().settings.webhook_networks,
        )  # fmt: skip
        document = {"id": endpoint.id, "agency": agency_slug, "url": url, "secret": secret}
    return document, [f"Endpoint {document['id']} is told from now on. {_keep(secret)}"]


@webhook_commands.command("list")
@click.option("--agency", "agency_slug", metavar="S")
@speaks
@needs_tables
def list_endpoints(agency_slug: str | None) -> Spoken:
    """Every endpoint, its state, and how many calls of it were taken, wait or failed."""
    with house().database.work(OPERATOR) as session:
        if agency_slug is not None:
            _agency(session, agency_slug)
        found = endpoints.listed(session, agency_slug)
    lines = []
    for one in found:
        counted = ", ".join(f"{count:,} {state}" for state, count in one["deliveries"].items() if count)
        why = one["reason"] or (f"failing since {one['failing_since']}" if one["failing_since"] else "")
        lines.append(
            f"{one['id']:>6}  {one['state']:<8}  {one['agency']}  {one['url']}  ({counted or 'nothing sent yet'})"
        )
        if why:
            lines.append(f"        {why}")
    return {"endpoints": found}, lines or ["No agency has an endpoint yet."]


@webhook_commands.command("rotate")
@click.argument("endpoint_id", metavar="ID", type=NUMBER)
@BY
@speaks
@needs_tables
def rotate(endpoint_id: int, by: str) -> Spoken:
    """Give an endpoint a new secret. For a day each call carries a signature with the old one, too."""
    with denials("webhook.rotate", by, str(endpoint_id)), house().database.work(OPERATOR) as session:
        _endpoint, secret = endpoints.rotate(session, endpoint_id, member_called(session, by), "cli")
    return {"id": endpoint_id, "secret": secret}, [
        f"Endpoint {endpoint_id} has a new secret; the old one signs as well for 24 hours. {_keep(secret)}"
    ]


@webhook_commands.command("disable")
@click.argument("endpoint_id", metavar="ID", type=NUMBER)
@click.option("--reason", default="")
@BY
@speaks
@needs_tables
def disable(endpoint_id: int, reason: str, by: str) -> Spoken:
    """Tell an endpoint nothing more."""
    with denials("webhook.disable", by, str(endpoint_id)), house().database.work(OPERATOR) as session:
        endpoints.disable(session, endpoint_id, member_called(session, by), "cli", reason)
    return {"id": endpoint_id, "state": "disabled"}, [f"Endpoint {endpoint_id} is told nothing more."]


@webhook_commands.command("enable")
@click.argument("endpoint_id", metavar="ID", type=NUMBER)
@BY
@speaks
@needs_tables
def enable(endpoint_id: int, by: str) -> Spoken:
    """Tell an endpoint again what happens from now on."""
    with denials("webhook.enable", by, str(endpoint_id)), house().database.work(OPERATOR) as session:
        endpoints.enable(
            session, endpoint_id, member_called(session, by), "cli", house().settings.webhook_networks
        )  # fmt: skip
    return {"id": endpoint_id, "state": "enabled"}, [f"Endpoint {endpoint_id} is told again from now on."]


@webhook_commands.command("sent")
@click.option("--state", type=click.Choice(endpoints.DELIVERY_STATES))
@click.option("--endpoint", "endpoint_id", type=NUMBER, metavar="ID")
@click.option("--limit", type=click.IntRange(1, MOST), default=100, show_default=True)
@speaks
@needs_tables
def sent(state: str | None, endpoint_id: int | None, limit: int) -> Spoken:
    """The latest calls, newest first, and what became of each."""
    with house().database.work(OPERATOR) as session:
        found = endpoints.sent(session, state=state, endpoint_id=endpoint_id, limit=limit)
    lines = [
        f"{one['id']:>8}  {one['state']:<9}  {one['type']} {one['about']}  to {one['url']}"
        + (f"  ({one['reason']})" if one["reason"] else "")
        for one in found
    ]
    return {"deliveries": found}, lines or ["Nothing was sent yet."]


@webhook_commands.command("retry")
@click.argument("delivery_id", metavar="ID", type=NUMBER)
@BY
@speaks
@needs_tables
def retry(delivery_id: int, by: str) -> Spoken:
    """Queue a call again that failed or was withdrawn."""
    with denials("webhook.retry", by, str(delivery_id)), house().database.work(OPERATOR) as session:
        deliveries.try_again(session, delivery_id, member_called(session, by), "cli")
    return {"delivery": delivery_id, "state": "queued"}, [f"Delivery {delivery_id} is queued again."]


@monitor_commands.command("add")
@click.argument("kind", type=click.Choice(alerts.KINDS))
@click.option("--platform", required=True, help="What it watches.")
@click.option("--agency", "agency_slug", metavar="S", help="For this agency alone.")
@click.option("--secret-file", type=TextFile(), help="PagerDuty's signing secret; - for standard input.")
@BY
@speaks
@needs_tables
def add_monitor(kind: str, platform: str, agency_slug: str | None, secret_file: TextIO | None, by: str) -> Spoken:
    """Let a monitor propose incidents of a platform. Shows the address that it is to call, this once."""
    given = secret_file.read().strip() if secret_file is not None else ""
    with denials("monitor.add", by, platform), house().database.work(OPERATOR) as session:
        agency = None if agency_slug is None else _agency(session, agency_slug)
        monitor, token, secret = monitors.add(session, kind, platform, agency, given, member_called(session, by), "cli")
        address = f"{house().settings.public_url}/webhooks/monitors/{token}"
        document = {"id": monitor.id, "kind": kind, "platform": platform, "url": address, "bearer": secret or None}
    lines = [f"Monitor {document['id']} is to call {address}", "The address is a secret, and shown this once."]
    if secret:
        lines.append(f"It is to send `Authorization: Bearer {secret}`.")
    return document, lines


@monitor_commands.command("list")
@speaks
@needs_tables
def list_monitors() -> Spoken:
    """Every monitor, and when it was heard of last."""
    with house().database.work(OPERATOR) as session:
        found = monitors.listed(session)
    lines = [
        f"{one['id']:>6}  {one['state']:<8}  {one['kind']:<12}  {one['platform']:<10}  {one['agency'] or 'everybody'}"
        f"  {'heard at ' + one['heard_at'] if one['heard_at'] else 'never heard of'}"
        for one in found
    ]
    return {"monitors": found}, lines or ["No monitor has been added."]


@monitor_commands.command("disable")
@click.argument("monitor_id", metavar="ID", type=NUMBER)
@BY
@speaks
@needs_tables
def disable_monitor(monitor_id: int, by: str) -> Spoken:
    """Believe nothing more that a monitor sends."""
    with denials("monitor.disable", by, str(monitor_id)), house().database.work(OPERATOR) as session:
        monitors.disable(session, monitor_id, member_called(session, by), "cli")
    return {"id": monitor_id, "state": "disabled"}, [f"Monitor {monitor_id} is not listened to any more."]


def _keep(secret: str) -> str:
    return f"Its secret is shown this once: {secret}"


def _agency(session: Any, slug: str) -> Agency:
    agency: Agency | None = session.scalar(sa.select(Agency).where(Agency.slug == slug))
    if agency is None:
        raise NotFound(
            f"There is no agency called {slug[:40]!r}{nearest(slug, session.scalars(sa.select(Agency.slug)))}"
        )
    return agency
