"""Who an agency's messages come from: its name, its locale, time zone and currency, and where answers go."""

from typing import Final

from sqlalchemy.orm import Session

from billing import locales
from billing.errors import BadRequest, NotAllowed
from billing.outages.messages import post
from tenants import audit
from tenants.models import Agency, Member

FACTS: Final = ("name", "locale", "time_zone", "currency", "reply_to")


def change(
    session: Session, agency: Agency, by: Member, origin: str, *, name: str | None = None, locale: str | None = None,
    time_zone: str | None = None, currency: str | None = None, reply_to: str | None = None,
) -> Agency:  # fmt: skip
    """Change what is given; an empty `reply_to` takes it away. Raises `BadRequest`, `NotAllowed`.

    Where lost time is counted in whole hours or days, the next plan counts them in the new time zone.
    """
    if by.role != "finance" and not (by.role == "agency-admin" and by.agency_id == agency.id):
        raise NotAllowed(f"{by.email} is {by.role}: {agency.slug} is changed by its admin or the operator's finance.")
    before = {fact: getattr(agency, fact) for fact in FACTS}
    try:
        agency.name = agency.name if name is None else Agency.called(name)
        agency.time_zone = agency.time_zone if time_zone is None else Agency.zone_called(time_zone)
        agency.currency = agency.currency if currency is None else Agency.currency_called(currency)
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
    after = {fact: getattr(agency, fact) for fact in FACTS}
    audit.record(
        session, by.email, origin, "agency.sender_changed", agency.slug, agency_id=agency.id, before=before, after=after
    )
    return agency
