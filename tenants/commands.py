"""How every command of the house speaks.

A command prints for a person, or with `--json` one JSON document. It exits 0 only on success, 2 on bad usage, and 1
with one sentence on standard error when it was refused; a refusal changes nothing. With `--json` that sentence is the
message of a JSON error, too.
"""

import functools
import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, NoReturn, TypeVar

import click
import sqlalchemy as sa
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.exc import OperationalError

from tenants import audit, upgrade
from tenants.db import Database
from tenants.house import House
from tenants.models import Member

Command = TypeVar("Command", bound=Callable[..., Any])

CHECK: Final = "check"
HELD_UP: Final = ("55P03", "40P01", "40001")
"""PostgreSQL's codes for a lock that did not come, a deadlock, and transactions that cannot both be."""
INTERRUPTED: Final = "Interrupted. What was written down stands, and whichever worker is alive goes on with it."
NO_TEXT: Final = re.compile("[\x00\ud800-\udfff]")
"""What bytes that are not UTF-8 become on the command line."""
NUMBER: Final = click.IntRange(1, 2**63 - 1)
"""What a row is called: no table counts further."""
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


class Refusal(Exception):
    """What a command may not do, in one sentence that says what to do instead. `code` is stable for scripts."""

    def __init__(self, sentence: str, code: str = "refused") -> None:
        super().__init__(sentence)
        self.code = code


class _SaysBadUsage(click.Command):
    """Says bad usage as JSON, too, where `--json` is among the words."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["as_json"] = "--json" in args
        with self._said(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with self._said(ctx):
            return super().invoke(ctx)

    @contextmanager
    def _said(self, ctx: click.Context) -> Iterator[None]:
        try:
            yield
        except click.UsageError as error:
            if not ctx.meta["as_json"]:
                raise
            refuse(error.format_message(), "bad_usage", as_json=True, status=2)


class Alone(_SaysBadUsage):
    """A command of no group."""


class Commands(_SaysBadUsage, AppGroup):
    """A group of commands."""


class AllCommands(AppGroup):
    """Whatever follows `flask`; a word that does not is said as JSON, too, where `--json` is among the words."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and "--json" in sys.argv:
            refuse(f"No such command {cmd_name!r}.", "bad_usage", as_json=True, status=2)
        return found


class TextFile(click.File):
    """A text file, or `-` for standard input, which a program that is started by another may not have."""

    def __init__(self) -> None:
        super().__init__(encoding="utf-8")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "-" and sys.stdin is None:
            self.fail("Standard input is closed: name a file.", param, ctx)
        return super().convert(value, param, ctx)


def house() -> House:
    """The running program that the command was called in."""
    found: House = current_app.extensions["house"]
    return found


def refuse(sentence: str, code: str, *, as_json: bool, status: int = 1) -> NoReturn:
    """End this process with one sentence on standard error, or with the same as JSON."""
    click.echo(json.dumps({"error": {"code": code, "message": sentence}}) if as_json else sentence, err=True)
    sys.exit(status)


def check_database(database: Database) -> None:
    """Raise `Refusal` when the database is behind or does not answer, or when the login could bypass its walls."""
    with _answering():
        missing = upgrade.behind(database)
        if missing:
            raise Refusal(missing)
        try:
            database.refuse_powerful_role()
        except PermissionError as refusal:
            raise Refusal(str(refusal)) from refusal


def needs_tables(command: Command) -> Command:
    """Check the database before anything happens, and whatever else `app.extensions[CHECK]` looks at in the house."""

    @functools.wraps(command)
    def checked(*args: Any, **kwargs: Any) -> Any:
        check_database(house().database)
        current_app.extensions[CHECK](house())
        return command(*args, **kwargs)

    return checked  # type: ignore[return-value]


def speaks(command: Command) -> Command:
    """Print what the command returns, or the one sentence of why not.

    A command returns `(document, lines)`: the document for `--json`, the lines for a person. An exception that carries
    a `status` is a refusal of the house (`billing.errors`), and so is a setting or a role that cannot be used.
    """

    @json_option
    @functools.wraps(command)
    def spoken(*args: Any, as_json: bool, **kwargs: Any) -> None:
        try:
            _refuse_what_is_no_text(kwargs)
            with _answering():
                document, lines = command(*args, **kwargs)
        except Refusal as refusal:
            refuse(str(refusal), refusal.code, as_json=as_json)
        except KeyboardInterrupt:
            refuse(INTERRUPTED, "interrupted", as_json=as_json, status=128 + signal.SIGINT)
        except PermissionError as refusal:
            refuse(str(refusal), "refused", as_json=as_json)
        except Exception as error:
            if not hasattr(error, "status") or not hasattr(error, "code"):
                raise
            refuse(str(error), str(error.code), as_json=as_json)
        else:
            # Indented for eyes alone: to indent a large document takes ten times as long as to write it.
            indent = 2 if sys.stdout.isatty() else None
            click.echo(json.dumps(document, indent=indent, default=str) if as_json else "\n".join(lines))

    return spoken  # type: ignore[return-value]


def wants_json() -> bool:
    """Whether the command that runs was asked for its document rather than its lines."""
    return bool(click.get_current_context().params.get("as_json"))


@contextmanager
def _answering() -> Iterator[None]:
    """Say in a sentence that the database is not there, or busy."""
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) in HELD_UP:
            raise Refusal("Somebody else is changing the same rows: try again in a minute.", "busy") from error
        cause = str(error.orig).strip().splitlines()[0].rstrip(".")
        raise Refusal(f"The database does not answer: {cause}.", "database_unreachable") from error


def _refuse_what_is_no_text(words: dict[str, Any]) -> None:
    """A terminal passes on any bytes; the database takes text alone."""
    for value in words.values():
        for word in value if isinstance(value, tuple) else (value,):
            if isinstance(word, str) and NO_TEXT.search(word):
                raise Refusal(f"{word[:40]!a} is no text: write it in UTF-8.", "bad_request")


def denials(what: str, by: str, subject: str) -> AbstractContextManager[None]:
    """Around a unit of work: whoever is denied `what`, e.g. `grant.retry`, leaves an audit entry about `subject`."""
    return audit.refusals(house().database, by, "cli", f"{what}_refused", subject[:80])


def member_called(session: Any, email: str) -> Member:
    """The active member with this address. Raises `Refusal` for anybody else."""
    member: Member | None = session.scalar(sa.select(Member).where(Member.email == email.strip().lower()))
    if member is None or not member.active:
        raise Refusal(f"Nobody called {email} works here. Add them with `flask members add {email} --role …`.")
    return member
