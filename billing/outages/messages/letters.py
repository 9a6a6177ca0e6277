"""The words of a message: built in, or an agency's own with placeholders that are filled in and never run. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Final

from billing.errors import BadRequest, nearest

LONGEST_SUBJECT: Final = 200
LONGEST_BODY: Final = 10_000
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+)\}")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of text around to hide what it says."""


@dataclass(frozen=True)
class Wording:
    """A subject and a body with placeholders such as `{amount}`. `version` is None for the built-in words."""

    subject: str
    body: str
    version: int | None = None


@dataclass(frozen=True)
class Letter:
    """A message as it is sent: one line, and text."""

    subject: str
    text: str


EVERYWHERE: Final = {
    "customer": "the customer's name",
    "agency": "the agency's name",
    "platform": "the platform that was out, such as Facebook",
    "title": "the incident's title",
    "started": "when the outage began",
    "ended": "when it ended, or that it is going on",
    "portal": "the address of the customer's own pages",
    "status": "the address of the status page",
}
_CHOICE: Final = {
    "choice": "what the customer may choose or has chosen, where the policy lets them; added at the end if left out"
}
PLACEHOLDERS: Final[dict[str, dict[str, str]]] = {
    "declared": EVERYWHERE
    | {
        "updates": "what has been published about the incident so far",
        "paused": "which of the customer's billing is paused, in a sentence",
        "money_back": "what goes back and by when, in a sentence",
        "promise": "the day by which all money is to be back",
    }
    | _CHOICE,
    "update": EVERYWHERE | {"update": "the published update"},
    "refunded": EVERYWHERE
    | {
        "amount": "what goes back",
        "invoice": "the number of the invoice that it is for",
        "ways": "the way that the money takes, in a sentence for each",
        "arithmetic": "how the amount was computed, line by line",
    }
    | _CHOICE,
    "correction": EVERYWHERE
    | {
        "amount": "what takes another way now",
        "invoice": "the number of the invoice that it is for",
        "told": "the amount that the customer had been told of",
        "told_on": "the day on which the customer was told",
        "change": "what changed, in a sentence",
    },
    "resumed": EVERYWHERE
    | {
        "over": "that the outage is over, in a sentence",
        "total": "what has gone back for the incident so far, in a sentence",
    }
    | _CHOICE,
}
"""What each kind of message may mention, and what stands there in the end."""

BUILT_IN: Final[dict[str, Wording]] = {
    "declared": Wording(
        "{title}: what it means for your billing",
        """Hello {customer},

{updates}

{paused}

{money_back}

{choice}

You do not have to do anything. Everything about your billing: {portal}
News about the outage: {status}

{agency}""",
    ),
    "update": Wording(
        "Update: {title}",
        """Hello {customer},

{update}

All updates: {status}

{agency}""",
    ),
    "refunded": Wording(
        "{amount} back for the {platform} outage",
        """Hello {customer},

{platform} was not available to us from {started} to {ended}. For the time that you had paid for and \
lost, {amount} of invoice {invoice} comes back to you.

{ways}

{choice}

How this was computed:

{arithmetic}

The credit note and the invoice are here: {portal}

{agency}""",
    ),
    "correction": Wording(
        "A change to your refund for the {platform} outage",
        """Hello {customer},

on {told_on} we told you that {told} of invoice {invoice} would come back to you for the {platform} outage. {change}

What you are owed has not changed. You do not have to do anything, and you can follow it here: {portal}

{agency}""",
    ),
    "resumed": Wording(
        "Your billing resumes: {title}",
        """Hello {customer},

{over} Billing of what had been paused for it has resumed.

{total}

{choice}

Everything about your billing: {portal}

{agency}""",
    ),
}  # fmt: skip


def checked(kind: str, subject: str, body: str) -> Wording:
    """An agency's own words. Raises `BadRequest` with what to change.

    Whatever is not a known placeholder in braces is plain text: nothing in it is ever compiled or run.
    """
    subject = " ".join(subject.split())
    body = body.replace("\r\n", "\n").strip()
    if not subject or len(subject) > LONGEST_SUBJECT:
        raise BadRequest(f"A subject has 1 to {LONGEST_SUBJECT} characters.")
    if not body or len(body) > LONGEST_BODY:
        raise BadRequest(f"A message has 1 to {LONGEST_BODY:,} characters.")
    if _CONTROLS.search(subject + body):
        raise BadRequest("Leave out control characters: plain letters, signs and line breaks will do.")
    for name in _PLACEHOLDER.findall(subject + body):
        if name not in PLACEHOLDERS[kind]:
            raise BadRequest(f"There is no {{{name}}} in this message{nearest(name, PLACEHOLDERS[kind])}")
    return Wording(subject, body)


def written(wording: Wording, values: Mapping[str, str]) -> Letter:
    """The words with their placeholders filled in, once: what is filled in is text, whatever it looks like.

    What a customer may choose is said whether or not an agency's own words have a place for it.
    """
    subject = _filled(wording.subject, values)
    body = wording.body
    if values.get("choice") and "{choice}" not in body:
        body += "\n\n{choice}"
    text = re.sub(r"\n{3,}", "\n\n", _filled(body, values))
    return Letter(" ".join(subject.split())[:LONGEST_SUBJECT], text.strip() + "\n")


def html(letter: Letter, own_address: str) -> str:
    """The same for readers that show HTML: paragraphs, with links to our own pages and to nothing else."""
    own = re.compile(rf"{re.escape(escape(own_address))}(?:/[\w/#-]*)?")
    linked = own.sub(r'<a href="\g<0>">\g<0></a>', escape(letter.text.strip()))
    paragraphs = "".join(
        f'<p style="white-space:pre-wrap;margin:0 0 1em">{paragraph}</p>' for paragraph in linked.split("\n\n")
    )
    return (
        '<!doctype html><html><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(letter.subject)}</title></head>"
        '<body style="font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:0 auto;padding:1.5em">'
        f"{paragraphs}</body></html>\n"
    )


def _filled(words: str, values: Mapping[str, str]) -> str:
    return _CONTROLS.sub(" ", _PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), words))
