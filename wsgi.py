"""The Flask app and the Celery app, built out of the three packages. Nobody imports this file: servers and `flask` do.

In production: `gunicorn wsgi:app` and `celery -A wsgi.celery worker`, on any number of machines.
"""

import atexit
import os
import sys
from dataclasses import replace
from pathlib import Path

import click
from flask import Flask
from flask.cli import AppGroup

from billing import portal
from billing.cli import customer_commands, plan_commands, stripe_commands
from billing.outages import console, explain, status, tasks
from billing.outages.cli import incident_commands
from tenants import web
from tenants.cli import agency_commands, database_commands, member_commands
from tenants.db import Database
from tenants.house import House, clock_for
from tenants.settings import Settings, SettingsError, read
from webhooks import tasks as webhook_tasks
from webhooks import views as webhook_views

VAR = Path(__file__).resolve().parent / "var"


def _settings() -> Settings:
    try:
        return read(os.environ)
    except SettingsError as refusal:
        sys.exit(str(refusal))


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


settings = _settings()
if settings.embedded and not _called_as("sandbox"):
    settings = _with_embedded_database(settings)
house = House(settings=settings, database=Database(settings.database_url), clock=clock_for(settings))
celery = tasks.make_celery(house)
webhook_tasks.join(celery, house)
house.database.ring = tasks.bell(celery)
app: Flask = web.make_app(house, [console.blueprint, portal.blueprint, status.blueprint, webhook_views.blueprint])
app.extensions[portal.ARITHMETIC] = explain.of_invoice
for commands in (
    database_commands,
    agency_commands,
    member_commands,
    stripe_commands,
    plan_commands,
    customer_commands,
    incident_commands,
):
    app.cli.add_command(commands)
sandbox_commands = AppGroup("sandbox", help="A Stripe on this machine.")
app.cli.add_command(sandbox_commands)

if _serves_pages():
    house.database.refuse_powerful_role()
    if settings.celery_broker_url.startswith("memory:"):
        tasks.work_in_this_process(celery)


@app.cli.command("worker")
def worker() -> None:
    """The Celery worker with beat inside, for one machine."""
    house.database.refuse_powerful_role()
    celery.worker_main(["worker", "--beat", "--loglevel=INFO", "--schedule", str(VAR / "beat")])


@sandbox_commands.command("run")
@click.option("--port", default=12_111, show_default=True)
@click.option("--seed", default="empty", show_default=True, help="empty, story, or N invoices.")
def run_sandbox(port: int, seed: str) -> None:
    """Speak Stripe's API on this machine until Ctrl-C; what it holds outlives a restart."""
    from sandbox import seeds
    from sandbox.stripe import server

    try:
        seeds.checked(seed)
    except ValueError as refusal:
        raise click.BadParameter(str(refusal), param_hint="--seed") from refusal
    server.run(port=port, seed=seed, state_file=VAR / "sandbox.journal")
