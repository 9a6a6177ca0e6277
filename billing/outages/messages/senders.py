"""Who an agency's messages come from: its name, its locale, and where answers go."""

from sqlalchemy.orm import Session

from billing import locales
from billing.errors import BadRequest, NotAllowed
from billing.outages.messages import post
from tenants import audit
from tenants.models import Agency, Member


def change(
    session: Session, agency: Agency, by: Member, origin: str, *, name: str | None = None, locale: str | None = None,
    reply_to: str | None = None,
) -> Agency:  # fmt: skip
    """Change what is given; an empty `reply_to` takes it away. Raises `BadRequest`, `NotAllowed`."""
    if by.role != "finance" and not (by.role == "agency-admin" and by.agency_id == agency.id):
        raise NotAllowed(f"{by.email} is {by.role}: {agency.slug} is changed by its admin or the operator's finance.")
    before = {"name": agency.name, "locale": agency.locale, "reply_to": agency.reply_to}
    if name is not None:
        try:
            agency.name = Agency.called(name)
        except ValueError as refusal:
            raise BadRequest(str(refusal)) from refusal
    if locale is not None:
        found = locales.known(locale)
        if found is None:
            raise BadRequest(f"{locale[:40]!r} is no locale: write a language tag such as en-US, de-DE or pt-BR.")
        agency.locale = found
    if reply_to is not None:
        if reply_to and not post.is_address(reply_to):
            raise BadRequest(f"{reply_to[:80]!r} is no e-mail address.")
        agency.reply_to = reply_to or None
    session.flush()
    after = {"name": agency.name, "locale": agency.locale, "reply_to": agency.reply_to}
    audit.record(
        session, by.email, origin, "agency.sender_changed", agency.slug, agency_id=agency.id, before=before, after=after
    )
    return agency
