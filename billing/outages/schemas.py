"""What may come in from a person or a script, checked before anything is looked at: one clear sentence each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate
from sqlalchemy.orm import Session

from billing import catalog
from billing.errors import BadRequest, Refused
from billing.outages import planning
from billing.outages.incidents import Change
from billing.outages.planning import Declaration
from billing.windows import Window, iso, parse_time

POLICIES = ("prorated", "full", "credit", "none")
LONGEST_TITLE, LONGEST_MESSAGE, LONGEST_REASON = 120, 2_000, 500
FIRST_YEAR = 1970


class Moment(fields.Field[datetime]):
    """A time with its offset, read as `billing.windows.parse_time` reads it. A year that is half typed is none."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            read = parse_time(str(value))
        except Refused as error:
            raise ValidationError(error.message) from error
        if read.year < FIRST_YEAR:
            raise ValidationError(f"Look at the year: {str(value)[:40]!r} is before anything was sold here.")
        return read


def _printable(text: str) -> None:
    if any(not (letter.isprintable() or letter in "\n\r") for letter in text):
        raise ValidationError("It has a character that cannot be printed: take it out.")


IMPACT = validate.Range(1, 10_000, error="The impact is 1 to 10,000 basis points; 10,000 is a whole outage.")
MESSAGE: Sequence[Callable[[Any], Any]] = [
    validate.Length(max=LONGEST_MESSAGE, error="A message has at most 2,000 characters."),
    _printable,
]


class DeclarationSchema(Schema):
    """An outage as the console's form and the command line describe it."""

    platform = fields.String(required=True, validate=validate.Length(1, 60, error="Name one platform, e.g. facebook."))
    since = Moment(required=True)
    until = Moment(load_default=None, allow_none=True)
    impact = fields.Integer(load_default=10_000, strict=True, validate=IMPACT)
    agencies = fields.List(fields.String(), load_default=())
    policy = fields.String(
        load_default=None,
        allow_none=True,
        validate=validate.OneOf(
            POLICIES, error="The policy is prorated, full, credit or none; leave it out for each agency's own."
        ),
    )
    title = fields.String(
        load_default="",
        validate=[validate.Length(max=LONGEST_TITLE, error="A title has at most 120 characters."), _printable],
    )
    message = fields.String(load_default="", validate=MESSAGE)

    @post_load
    def _made(self, data: dict[str, Any], **_kwargs: Any) -> Declaration:
        return Declaration(
            platform=data["platform"].strip().lower(),
            started_at=data["since"],
            ended_at=data["until"],
            impact_bp=data["impact"],
            agencies=tuple(data["agencies"]),
            policy=data["policy"],
            title=" ".join(data["title"].split()),
            message=data["message"].strip(),
        )


class SecondThoughtSchema(Schema):
    """What somebody wants to be different about an incident, and why. What is left out stays."""

    since = Moment(load_default=None)
    until = Moment(load_default=None)
    impact = fields.Integer(load_default=None, strict=True, validate=IMPACT)
    agencies = fields.List(fields.String(), load_default=None)
    reason = fields.String(
        load_default="",
        validate=[validate.Length(max=LONGEST_REASON, error="A reason has at most 500 characters."), _printable],
    )
    message = fields.String(load_default="", validate=MESSAGE)


@dataclass(frozen=True)
class SecondThought:
    """A change as asked for, with the reason that is kept in the house and the message that customers read."""

    change: Change
    reason: str
    message: str


def second_thought(**given: Any) -> SecondThought:
    """Read a change, a reason or a message. `agencies` of no slug are all agencies. Raises `BadRequest`."""
    try:
        read = SecondThoughtSchema().load({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        raise BadRequest(first_sentence(error.messages_dict)) from error
    agencies = None if read["agencies"] is None else tuple(read["agencies"])
    return SecondThought(
        Change(read["since"], read["until"], read["impact"], agencies),
        " ".join(read["reason"].split()),
        read["message"].strip(),
    )


def declaration(session: Session, now: datetime, **given: Any) -> Declaration:
    """Read and check a declaration against the clock and what is known.

    Raises `BadRequest` for what cannot be read, `Refused` for times that cannot be, `NotFound` for an unknown platform
    or agency, `Conflict` for a disabled platform, each with one sentence that says what to do.
    """
    try:
        made: Declaration = DeclarationSchema().load(
            {name: value for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        raise BadRequest(first_sentence(error.messages_dict)) from error
    catalog.platform_called(session, made.platform)
    if made.started_at > now:
        raise Refused(
            f"An outage cannot begin in the future: it is {iso(now)} now, and it would begin {iso(made.started_at)}."
        )
    Window(made.started_at, made.ended_at)
    if made.ended_at is not None and made.ended_at > now:
        raise Refused(f"It has not ended yet: it is {iso(now)} now. Leave the end out until it is over.")
    planning.agencies_of(session, made.agencies)
    return made


def first_sentence(messages: Mapping[Any, Any] | Sequence[Any]) -> str:
    """The first of marshmallow's nested messages, with the field that it is about where that helps."""
    if isinstance(messages, Mapping):
        field, inner = next(iter(messages.items()))
        sentence = first_sentence(inner)
        return f"{field}: {sentence}" if sentence.startswith(("Missing", "Unknown", "Not a", "Field")) else sentence
    return str(messages[0])
