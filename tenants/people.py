"""Signing in without a password: links that work once, and the sign-ins that they begin.

Of a link and of a sign-in only the hash is kept, so a copy of the database opens nothing. Ages are measured with the
database's clock: business time may be that of a story, but a link is as old as it is.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import sqlalchemy as sa
from itsdangerous import BadSignature, Signer
from sqlalchemy.orm import Session

from tenants import audit
from tenants.models import OPERATOR_AGENCY, Member, SignIn, SignInLink

LINK_LASTS: Final = timedelta(minutes=30)
IDLE: Final = timedelta(hours=2)
ABSOLUTE: Final = timedelta(hours=12)
SEEN_EVERY: Final = timedelta(minutes=1)
"""A sign-in's last use is written at most this often, so that reading a page is not a write each time."""

CUSTOMER: Final = "customer"


class LinkDoesNotWork(Exception):
    """The same sentence whether it was used, is too old or never was, so that nobody learns which. Ask for another."""

    status = 410
    code = "link_does_not_work"
    message = (
        "This sign-in link does not work: it was used already, it is too old, or it was not copied whole. "
        "Ask for a new one."
    )

    def __init__(self) -> None:
        super().__init__(self.message)


@dataclass(frozen=True, slots=True)
class Person:
    """Who is asking: one of the operator's staff (no agency), a member of an agency, or a customer of an agency.

    `role` is the member's, or `customer`. `name` is an e-mail address, or the customer's id.
    """

    name: str
    role: str
    member_id: int | None = None
    agency_id: int | None = None
    customer_id: str | None = None

    @property
    def is_staff(self) -> bool:
        return self.member_id is not None and self.agency_id is None

    @property
    def is_agency_member(self) -> bool:
        return self.member_id is not None and self.agency_id is not None


def link_for_member(
    session: Session, member: Member, secret_key: str, by: str, origin: str, lasts: timedelta = LINK_LASTS
) -> str:
    """The token of a new link that signs this member in, once, until it is too old."""
    link = SignInLink(member_id=member.id, agency_id=member.agency_id)
    return _made(session, link, secret_key, member.email, by, origin, lasts)


def link_for_customer(
    session: Session,
    agency_id: int,
    customer_id: str,
    secret_key: str,
    by: str,
    origin: str,
    lasts: timedelta = LINK_LASTS,
) -> str:
    """The token of a new link that signs a customer of this agency in, once. The caller knows that they exist."""
    link = SignInLink(agency_id=agency_id, customer_id=customer_id)
    return _made(session, link, secret_key, customer_id, by, origin, lasts)


def bearer(session: Session, token: str, secret_key: str) -> Person:
    """Whom the link would sign in; it is not used up. Raises `LinkDoesNotWork`."""
    return _person_of(session, _unused(session, token, secret_key))


def sign_in(session: Session, token: str, secret_key: str, origin: str) -> tuple[str, Person]:
    """Use the link up and begin a sign-in: the secret for the browser to keep, and whose it is.

    Raises `LinkDoesNotWork`; of two browsers that open one link at the same moment, for one.
    """
    link = _unused(session, token, secret_key, lock=True)
    person = _person_of(session, link)
    link.used_at = session.scalar(sa.select(sa.func.now()))
    secret = secrets.token_urlsafe(32)
    session.add(
        SignIn(
            token_hash=_hash(secret),
            member_id=link.member_id,
            agency_id=link.agency_id,
            customer_id=link.customer_id,
        )
    )
    audit.record(
        session, person.name, origin, "person.signed_in", person.name, agency_id=link.agency_id or OPERATOR_AGENCY
    )
    return secret, person


def asking(session: Session, secret: str) -> Person | None:
    """Whose sign-in this is; None once it was ended, has been idle or stood too long, or its member was shut out."""
    row = session.execute(
        sa.select(SignIn, (SignIn.seen_at < sa.func.now() - SEEN_EVERY).label("stale"))
        .outerjoin(Member, Member.id == SignIn.member_id)
        .where(
            SignIn.token_hash == _hash(secret),
            SignIn.ended_at.is_(None),
            SignIn.seen_at > sa.func.now() - IDLE,
            SignIn.started_at > sa.func.now() - ABSOLUTE,
            sa.or_(SignIn.customer_id.is_not(None), Member.active),
        )
    ).first()
    if row is None:
        return None
    if row.stale:
        session.execute(
            sa.update(SignIn).where(SignIn.token_hash == row.SignIn.token_hash).values(seen_at=sa.func.now())
        )
    return _person_of(session, row.SignIn)


def sign_out(session: Session, secret: str) -> None:
    """End the sign-in everywhere, at once. Safe for one that is over."""
    session.execute(
        sa.update(SignIn)
        .where(SignIn.token_hash == _hash(secret), SignIn.ended_at.is_(None))
        .values(ended_at=sa.func.now())
    )


def shut_out(session: Session, member: Member, by: str, origin: str) -> None:
    """This member works here no longer: their sign-ins are over and their links open nothing, even if they return."""
    member.active = False
    now = sa.func.now()
    for row, ended in ((SignIn, SignIn.ended_at), (SignInLink, SignInLink.used_at)):
        session.execute(sa.update(row).where(row.member_id == member.id, ended.is_(None)).values({ended: now}))
    facts = {"role": member.role}
    audit.record(
        session, by, origin, "member.removed", member.email, agency_id=member.agency_id or OPERATOR_AGENCY, before=facts
    )


def _made(
    session: Session, link: SignInLink, secret_key: str, name: str, by: str, origin: str, lasts: timedelta
) -> str:
    secret = secrets.token_urlsafe(32)
    link.token_hash = _hash(secret)
    link.expires_at = session.execute(sa.select(sa.func.now())).scalar_one() + lasts
    session.add(link)
    audit.record(session, by, origin, "sign_in.link_made", name, agency_id=link.agency_id or OPERATOR_AGENCY)
    return _signer(secret_key).sign(secret).decode()


def _unused(session: Session, token: str, secret_key: str, *, lock: bool = False) -> SignInLink:
    """The signature refuses a guess before the database is asked; the row refuses what was used or is too old."""
    try:
        secret = _signer(secret_key).unsign(token).decode()
    except BadSignature:
        raise LinkDoesNotWork from None
    found = sa.select(SignInLink).where(
        SignInLink.token_hash == _hash(secret), SignInLink.used_at.is_(None), SignInLink.expires_at > sa.func.now()
    )
    link = session.scalar(found.with_for_update() if lock else found)
    if link is None:
        raise LinkDoesNotWork
    return link


def _person_of(session: Session, row: SignInLink | SignIn) -> Person:
    if row.customer_id is not None:
        return Person(row.customer_id, CUSTOMER, agency_id=row.agency_id, customer_id=row.customer_id)
    member = session.get_one(Member, row.member_id)
    if not member.active:
        raise LinkDoesNotWork
    return Person(member.email, member.role, member_id=member.id, agency_id=member.agency_id)


def _signer(secret_key: str) -> Signer:
    return Signer(secret_key, salt="sign-in-link", digest_method=hashlib.sha256)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
