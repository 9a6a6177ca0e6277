"""`flask …` in this process: what it prints, what it refuses, and whether it changed a single row."""

import json
from collections.abc import Sequence
from typing import Any

from click.testing import Result
from flask import Flask

from billing import importing
from billing.cli import customer_commands, plan_commands, stripe_commands
from billing.outages.cli import incident_commands
from billing.outages.messages.cli import message_commands
from sandbox import postgres
from tenants.audit_cli import audit_commands
from tenants.cli import agency_commands, database_commands, member_commands
from tenants.commands import CHECK
from tenants.house import House
from tests.databases import WARM
from tests.web import app_of
from webhooks.cli import monitor_commands, webhook_commands
from webhooks.events.cli import event_commands

GROUPS = (
    database_commands, agency_commands, member_commands, audit_commands, stripe_commands, plan_commands,
    customer_commands, incident_commands, message_commands, webhook_commands, monitor_commands,
    event_commands,
)  # fmt: skip
SINCE = ("--platform", "facebook", "--since", "2019-08-22T20:00Z")
FINANCE = ("--by", "finance@operator.example")
APPROVER = ("--by", "approver@operator.example")
NEED_TABLES: Sequence[tuple[str, ...]] = (
    ("agencies", "create", "Elm Street"),
    ("agencies", "load", "-"),
    ("agencies", "policy", "acme"),
    ("agencies", "limit", "acme"),
    ("members", "add", "new@operator.example", "--role", "finance"),
    ("members", "remove", "finance@operator.example"),
    ("members", "link", "finance@operator.example"),
    ("members", "enrol", "finance@operator.example"),
    ("members", "unenrol", "finance@operator.example"),
    ("stripe", "import"),
    ("stripe", "check"),
    ("plans", "list"),
    ("plans", "weigh", "price_pages", "facebook=5000"),
    ("plans", "disable", "facebook"),
    ("plans", "enable", "facebook"),
    ("customers", "link", "cus_corner"),
    ("incidents", "preview", *SINCE),
    ("incidents", "simulate", "--policy", "full"),
    ("incidents", "declare", *SINCE, *FINANCE),
    ("incidents", "approve", "inc_1", *APPROVER, "--fingerprint", "f"),
    ("incidents", "decline", "inc_1", *APPROVER, "--reason", "x"),
    ("incidents", "replan", "inc_1", *FINANCE),
    ("incidents", "halt", "inc_1"),
    ("incidents", "continue", "inc_1"),
    ("incidents", "resolve", "inc_1", *FINANCE),
    ("incidents", "change", "inc_1", "--impact", "5000"),
    ("incidents", "reopen", "inc_1"),
    ("incidents", "retract", "inc_1", "--reason", "It was no outage."),
    ("incidents", "list"),
    ("incidents", "show", "inc_1"),
    ("incidents", "explain", "inc_1", "--customer", "cus_corner"),
    ("incidents", "reconcile", "inc_1"),
    ("incidents", "report", "inc_1"),
    ("incidents", "waiting"),
    ("incidents", "retire", "inc_1", "--reason", "x", *FINANCE),
    ("incidents", "paid", "1", *FINANCE, "--note", "x"),
    ("incidents", "retry", "1", *FINANCE, "--reason", "x"),
    (
        "incidents",
        "damage",
        "inc_1",
        "--customer",
        "cus_corner",
        "--amount",
        "1",
        "--currency",
        "usd",
        "--what",
        "x",
        *FINANCE,
    ),
    ("incidents", "update", "inc_1", *FINANCE, "--message", "Still going on."),
    ("messages", "list"),
    ("messages", "preview", "declared", "--customer", "cus_corner"),
    ("messages", "template", "acme", "declared", *FINANCE),
    ("messages", "sender", "acme", *FINANCE, "--locale", "de-DE"),
    ("messages", "retry", "1", *FINANCE),
    ("audit", "verify"),
    ("incidents", "lift", "in_1", *FINANCE, "--reason", "x"),
    ("events", "list"),
    ("events", "retry", "1", *FINANCE),
    ("webhooks", "add", "acme", "https://127.0.0.1/hooks", *FINANCE),
    ("webhooks", "list"),
    ("webhooks", "rotate", "1", *FINANCE),
    ("webhooks", "disable", "1", *FINANCE),
    ("webhooks", "enable", "1", *FINANCE),
    ("webhooks", "sent"),
    ("webhooks", "retry", "1", *FINANCE),
    ("monitors", "add", "statuspage", "--platform", "facebook", *FINANCE),
    ("monitors", "list"),
    ("monitors", "disable", "1", *FINANCE),
    ("incidents", "confirm", "inc_1", *FINANCE),
    ("incidents", "dismiss", "inc_1", "--reason", "x", *FINANCE),
)
"""Every command that looks into the database, in words that are well formed."""


def app_with_commands(house: House) -> Flask:
    app = app_of(house)
    app.extensions[CHECK] = importing.refuse_other_mode
    for commands in GROUPS:
        app.cli.add_command(commands)
    return app


DECISIONS = (
    "declare", "confirm", "dismiss", "approve", "decline", "replan", "halt", "continue", "resolve", "change", "reopen",
    "retract", "retire", "update",
)  # fmt: skip
NOTED = {("incidents", verb): f"incident.{verb}_refused" for verb in DECISIONS} | {
    ("incidents", "lift"): "invoice.lift_refused", ("incidents", "paid"): "grant.paid_refused",
    ("incidents", "retry"): "grant.retry_refused", ("incidents", "damage"): "damage.report_refused",
    ("agencies", "limit"): "agency.limit_refused", ("agencies", "policy"): "agency.policy_refused",
    ("messages", "sender"): "agency.sender_refused", ("messages", "template"): "message.template_refused",
    ("messages", "retry"): "message.retry_refused", ("events", "retry"): "event.retry_refused",
    ("webhooks", "add"): "webhook.add_refused", ("webhooks", "rotate"): "webhook.rotate_refused",
    ("webhooks", "disable"): "webhook.disable_refused", ("webhooks", "enable"): "webhook.enable_refused",
    ("webhooks", "retry"): "webhook.retry_refused",
    ("monitors", "add"): "monitor.add_refused", ("monitors", "disable"): "monitor.disable_refused",
}  # fmt: skip
"""Commands that leave an audit entry where they are denied, and which."""


class Terminal:
    """Where commands are typed, in a house whose database is at `urls`."""

    def __init__(self, house: House, urls: postgres.Urls) -> None:
        self._admin = urls.owner.replace("outage_owner@", "postgres@")
        self.enter(house)

    def enter(self, house: House) -> None:
        """Type the commands that follow in another house."""
        self.house, self.app = house, app_with_commands(house)

    def run(self, *words: str, stdin: str = "") -> Result:
        return self.app.test_cli_runner().invoke(args=list(words), input=stdin)

    def json(self, *words: str, stdin: str = "") -> Any:
        """What the command says with `--json`, which must be one document and nothing else."""
        done = self.run(*words, "--json", stdin=stdin)
        assert done.exit_code == 0, done.output
        assert done.stderr == ""
        return json.loads(done.stdout)

    def refuses(
        self, sentence: str, *words: str, status: int = 1, code: str | None = None, stdin: str = "", asked: bool = True
    ) -> None:
        """One line that says `sentence`, the exit status, the same as JSON, and not a row changed.

        Whoever is denied an act leaves an audit entry each time, and nobody else does; `asked` is
        false where it does not come to that decision.
        """
        before, entries = self.rows("audit_entries"), self.entries()
        done = self.run(*words, stdin=stdin)
        assert (done.exit_code, done.stdout) == (status, ""), done.output
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        if status == 1:
            assert len(done.stderr.strip().splitlines()) == 1
        told = self.run(*words, "--json", stdin=stdin)
        assert (told.exit_code, told.stdout) == (status, "")
        error = json.loads(told.stderr)["error"]
        assert sentence in error["message"]
        assert error["code"] == (code or error["code"])
        assert self.rows("audit_entries") == before
        denied = asked and error["code"] in ("not_allowed", "conflict", "plan_changed", "already_declared")
        of_all = {"--everything", "--account"} & set(words)
        entry = NOTED.get(words[:2], "").replace("incident.", "sending." if of_all else "incident.")
        left = [entry] * 2 if denied and entry else []
        assert self.entries() == entries + left

    def entries(self) -> list[str]:
        """The action of every audit entry, in the order in which they were written."""
        with WARM.connected(self._admin) as connection:
            found = connection.execute("SELECT action FROM audit_entries ORDER BY at, agency_id, seq").fetchall()
        return [action for (action,) in found]

    def rows(self, *but: str) -> str:
        """A fingerprint of every row of every table, `but` those of these."""
        with WARM.connected(self._admin) as connection:
            tables = connection.execute(
                "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL (%s)"
                " ORDER BY 1",
                [list(but)],
            ).fetchall()
            each = " UNION ALL ".join(f"SELECT '{name}: ' || t AS row FROM {name} t" for (name,) in tables)
            found = connection.execute(f"SELECT md5(string_agg(row, ',' ORDER BY row)) FROM ({each}) e".encode())
            return str(found.fetchone())
