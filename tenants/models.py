"""Agency, Member, sign-in links and sessions, AuditEntry."""

from datetime import datetime
from typing import Any
from zoneinfo import available_timezones

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from tenants import currencies
from tenants.db import AgencyOwned, Base

OPERATOR_AGENCY = 1
"""The agency that the first migration makes: the operator itself, and the home of customers that name no other."""

STAFF_ROLES = ("finance", "approver", "auditor")
AGENCY_ROLES = ("agency-admin", "agency-finance")


class Agency(Base):
    """A tenant: its name, its zone, and its own Stripe account if it has one."""

    __tablename__ = "agencies"
    __table_args__ = (
        sa.CheckConstraint("currency = lower(currency) AND length(currency) = 3", name="currency_is_lower_case"),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    currency: Mapped[str] = mapped_column(server_default="usd")
    time_zone: Mapped[str] = mapped_column(server_default="UTC")
    locale: Mapped[str] = mapped_column(server_default="en-US")
    """How its customers read amounts and dates, where they name no locale of their own: a language tag."""
    reply_to: Mapped[str | None]
    """Where its customers' answers to our messages go."""
    stripe_account: Mapped[str | None] = mapped_column(unique=True)
    fall_back_to_credit: Mapped[bool] = mapped_column(server_default=sa.true())
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())

    @staticmethod
    def called(words: str) -> str:
        """A name, on one line. Raises `ValueError` with a sentence for what is none."""
        name = " ".join(words.split())
        if not name or len(name) > 200 or not name.isprintable():
            raise ValueError("An agency's name has 1 to 200 printable characters.")
        return name

    @staticmethod
    def zone_called(name: str) -> str:
        """The same name. Raises `ValueError` with a sentence for what is no time zone."""
        if name not in available_timezones():
            raise ValueError(f"{name[:80]!r} is no time zone: give a name such as Europe/Berlin.")
        return name

    @staticmethod
    def currency_called(code: str) -> str:
        """The same code in lower case. Raises `ValueError` with a sentence for what is no currency."""
        if not currencies.is_currency(code):
            raise ValueError(f"{code[:40]!r} is no currency: give its three letters, such as usd.")
        return code.lower()


class Member(Base):
    """A person of the operator's staff (no agency) or of one agency. `email` is lower case."""

    __tablename__ = "members"
    __table_args__ = (
        sa.CheckConstraint("email = lower(email)", name="email_is_lower_case"),
        sa.CheckConstraint(
            "(agency_id IS NULL) = (role IN ('finance', 'approver', 'auditor'))"
            " AND role IN ('finance', 'approver', 'auditor', 'agency-admin', 'agency-finance')",
            name="role_belongs_to_its_side",
        ),
    )
    id: Mapped[int] = mapped_column(sa.Identity(), primary_key=True)
    agency_id: Mapped[int | None] = mapped_column(sa.ForeignKey("agencies.id"), index=True)
    email: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    active: Mapped[bool] = mapped_column(server_default=sa.true())
    created_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())


class SecondFactor(Base):
    """The secret that a member's authenticator shares with us. Seen in the operator's scope alone."""

    __tablename__ = "second_factors"
    __table_args__ = (sa.CheckConstraint("wrong BETWEEN 0 AND 4", name="locked_at_the_fifth_wrong_code"),)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"), primary_key=True)
    secret: Mapped[str]
    enrolled_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    last_step: Mapped[int | None]
    """Of the newest code that was taken; none up to it is taken again."""
    wrong: Mapped[int] = mapped_column(server_default="0")
    """Wrong codes in a row since the last right one or the last lock."""
    locked_until: Mapped[datetime | None]


class PolicyVersion(AgencyOwned, Base):
    """What an agency has said about outages so far: `settings` as `tenants.policy.Policy` names them. Add-only."""

    __tablename__ = "policy_versions"
    no: Mapped[int] = mapped_column(primary_key=True)
    settings: Mapped[dict[str, Any]]
    set_by: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))
    set_at: Mapped[datetime]


class SignInLink(Base):
    """A link that signs one person in, once. Only the hash of its token is kept. One of member and customer is set."""

    __tablename__ = "sign_in_links"
    __table_args__ = (
        sa.CheckConstraint("(member_id IS NULL) <> (customer_id IS NULL)", name="link_is_for_one_person"),
        sa.CheckConstraint("(customer_id IS NULL) OR (agency_id IS NOT NULL)", name="customer_has_an_agency"),
    )
    token_hash: Mapped[str] = mapped_column(primary_key=True)
    member_id: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    agency_id: Mapped[int | None] = mapped_column(sa.ForeignKey("agencies.id"))
    customer_id: Mapped[str | None]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class SignIn(Base):
    """One browser that is signed in; a row, so that signing out ends it at once everywhere."""

    __tablename__ = "sign_ins"
    __table_args__ = (
        sa.CheckConstraint("(member_id IS NULL) <> (customer_id IS NULL)", name="sign_in_is_of_one_person"),
    )
    token_hash: Mapped[str] = mapped_column(primary_key=True)
    member_id: Mapped[int | None] = mapped_column(sa.ForeignKey("members.id"))
    agency_id: Mapped[int | None] = mapped_column(sa.ForeignKey("agencies.id"))
    customer_id: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=sa.func.now())
    ended_at: Mapped[datetime | None]


class AuditEntry(AgencyOwned, Base):
    """One change: who, when, from where, what, before and after. The application may add entries, never alter them."""

    __tablename__ = "audit_entries"
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    origin: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    previous_hash: Mapped[str]
    hash: Mapped[str]
