"""The Flask app and the Celery app, built out of the three packages. Nobody imports this file: servers and `flask` do.

In production: `gunicorn wsgi:app` and `celery -A wsgi.celery worker`, on any number of machines.
"""

import gc

gc.disable()  # while it is loaded nothing is garbage, and looking for some takes a good part of a command's time

import atexit
import errno
import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import click
from flask import Flask

from billing import importing, portal
from billing.cli import customer_commands, plan_commands, stripe_commands
from billing.errors import Refused
from billing.outages import choices, console, customers, desk, explain, measures, reports, status, tasks
from billing.outages.cli import incident_commands
from billing.outages.messages import console as messages_console
from billing.outages.messages import tasks as message_tasks
from billing.outages.messages.cli import message_commands
from tenants import web
from tenants.audit_cli import audit_commands
from tenants.cli import agency_commands, database_commands, member_commands
from tenants.commands import (
    CHECK,
    AllCommands,
    Alone,
    Commands,
    Refusal,
    check_database,
    json_option,
    needs_tables,
    refuse,
    speaks,
)
from tenants.db import Database
from tenants.house import House, clock_for
from tenants.settings import Settings, SettingsError, file_of, read
from webhooks import console as webhooks_console
from webhooks import tasks as webhook_tasks
from webhooks import views as webhook_views
from webhooks.cli import monitor_commands, webhook_commands
from webhooks.events import console as events_console
from webhooks.events.cli import event_commands

VAR = Path(__file__).resolve().parent / "var"


def _settings() -> Settings:
    try:
        return read(os.environ, file_of(os.environ))
    except SettingsError as refusal:
        refuse(str(refusal), "bad_setting", as_json="--json" in sys.argv)


def _with_embedded_database(settings: Settings) -> Settings:
    """Start the embedded PostgreSQL under var/, to be stopped by whoever of its users ends last."""
    from sandbox import postgres  # the one place where the product reaches for what stands in for the outside

    server = postgres.start(VAR / "postgres")
    atexit.register(server.stop)
    urls = postgres.ensure_database(server, "outage")
    return replace(settings, database_url=urls.app, database_owner_url=urls.owner)


def _called_as(*commands: str) -> bool:
    """Whether this process is one of these commands: `flask NAME …`."""
    return Path(sys.argv[0]).stem in ("flask", "__main__") and any(word in commands for word in sys.argv[1:2])


def _serves_pages() -> bool:
    """Whether this process answers requests: a web server or `flask run`, not another command, nor a Celery worker."""
    context = click.get_current_context(silent=True)
    return context is None or context.info_name == "run"


def _is_celerys_worker() -> bool:
    """Whether this process is `celery -A wsgi.celery …`."""
    context = click.get_current_context(silent=True)
    return context is not None and str(context.find_root().info_name).endswith("celery")


settings = _settings()
if settings.embedded and not _called_as("sandbox"):
    settings = _with_embedded_database(settings)
settings = replace(settings, anchors=settings.anchors or VAR / "anchors")
house = House(settings=settings, database=Database(settings.database_url), clock=clock_for(settings))
celery = tasks.make_celery(house)
message_tasks.join(celery, house)
webhook_tasks.join(celery, house)
house.database.ring = tasks.bell(celery)
app: Flask = web.make_app(
    house,
    [
        console.blueprint,
        customers.blueprint,
        desk.blueprint,
        reports.blueprint,
        messages_console.blueprint,
        webhooks_console.blueprint,
        portal.blueprint,
        status.blueprint,
        webhook_views.blueprint,
        events_console.blueprint,
    ],
)
app.extensions[portal.ARITHMETIC] = explain.of_invoice
app.extensions[portal.CHOOSABLE] = choices.offered
app.extensions[web.READY] = [tasks.not_ready]
app.extensions[web.METRICS] = [partial(measures.gauges, celery.conf["watched"])]
app.extensions[CHECK] = importing.refuse_other_mode
app.cli = AllCommands(app.name)
for commands in (
    database_commands,
    agency_commands,
    member_commands,
    audit_commands,
    stripe_commands,
    plan_commands,
    customer_commands,
    incident_commands,
    message_commands,
    webhook_commands,
    monitor_commands,
    event_commands,
):
    app.cli.add_command(commands)
sandbox_commands = Commands("sandbox", help="A Stripe on this machine.")
app.cli.add_command(sandbox_commands)

if _serves_pages() or _is_celerys_worker():
    try:
        check_database(house.database)
        importing.refuse_other_mode(house)
    except (Refusal, Refused) as refusal:
        sys.exit(str(refusal))
if _serves_pages() and settings.celery_broker_url.startswith("memory:"):
    tasks.work_in_this_process(celery)


@app.cli.command("worker", cls=Alone)
@speaks
@needs_tables
def worker() -> tuple[dict[str, Any], list[str]]:
    """The Celery worker with beat inside, for one machine."""
    try:
        celery.worker_main(["--quiet", "worker", "--beat", "--loglevel=INFO", "--schedule", str(VAR / "beat")])
    except SystemExit as ended:
        if ended.code:
            raise
    return {"worker": "ended"}, ["The worker has ended."]


@sandbox_commands.command("run")
@click.option("--port", type=click.IntRange(0, 65_535), default=12_111, show_default=True, help="0: any that is free.")
@click.option("--seed", default="empty", show_default=True, help="empty, story, or N invoices.")
@json_option
def run_sandbox(port: int, seed: str, as_json: bool) -> None:
    """Speak Stripe's API on this machine until Ctrl-C; what it holds outlives a restart."""
    from sandbox import seeds
    from sandbox.stripe import server

    try:
        seeds.checked(seed)
    except ValueError as refusal:
        raise click.BadParameter(str(refusal), param_hint="--seed") from refusal
    ready = (lambda url: json.dumps({"url": url})) if as_json else server.READY.format
    try:
        server.run(port=port, seed=seed, state_file=VAR / "sandbox.journal", ready=ready)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        why = "is taken" if error.errno == errno.EADDRINUSE else "may not be used"
        refuse(f"Port {port} of 127.0.0.1 {why}: choose another with --port.", "port_taken", as_json=as_json)


gc.freeze()  # what has been loaded stays: it is not looked through again, not even at the end, and forks share it
gc.enable()
