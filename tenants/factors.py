"""A second factor: six digits that a member's own device shows for half a minute (RFC 6238), beside their sign-in.

A code is taken once, and none that is older than one that was. Its age is measured with the database's clock, of which
a device may be one step behind or ahead. The secret is shown when it is made and never again.
"""

import hmac
from datetime import datetime, timedelta
from typing import Final

import pyotp
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from tenants import audit
from tenants.models import OPERATOR_AGENCY, Member, SecondFactor

STEP: Final = 30
"""Seconds that a code is shown for."""
DRIFT: Final = 1
"""Steps that a device's clock may be behind or ahead."""
MOST_WRONG: Final = 5
LOCKED_FOR: Final = timedelta(minutes=15)
ISSUER: Final = "Outage Billing"


class NotProven(Exception):
    """No second factor was shown: do what the sentence says, and send it again."""

    status = 422

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class NoFactor(NotProven):
    """There is none: enrol one."""

    def __init__(self, member: str) -> None:
        super().__init__(
            f"{member} has no second factor: have one enrolled with `flask members enrol {member}`.", "no_second_factor"
        )


def enrol(session: Session, member: Member, by: str, origin: str) -> tuple[str, str]:
    """A new secret for this member, and the otpauth:// address that an authenticator reads it from.

    One that they had before no longer works, and a lock is over.
    """
    secret = pyotp.random_base32()
    had = enrolled(session, member.id)
    fresh = {"secret": secret, "last_step": None, "wrong": 0, "locked_until": None}
    made = insert(SecondFactor).values(member_id=member.id, **fresh)
    session.execute(
        made.on_conflict_do_update(index_elements=["member_id"], set_={**fresh, "enrolled_at": sa.func.now()})
    )
    _record(session, member, by, origin, "enrolled", before={"enrolled": had}, after={"enrolled": True})
    return secret, pyotp.TOTP(secret).provisioning_uri(name=member.email, issuer_name=ISSUER)


def remove(session: Session, member: Member, by: str, origin: str) -> None:
    """This member has no second factor from now on. Raises `NoFactor` where they had none."""
    gone = sa.delete(SecondFactor).where(SecondFactor.member_id == member.id).returning(SecondFactor.member_id)
    if session.scalar(gone) is None:
        raise NoFactor(member.email)
    _record(session, member, by, origin, "removed", before={"enrolled": True}, after={"enrolled": False})


def enrolled(session: Session, member_id: int) -> bool:
    """Whether this member has a second factor."""
    return bool(session.scalar(sa.select(sa.exists().where(SecondFactor.member_id == member_id))))


def refusal(session: Session, member: Member, code: str, origin: str) -> NotProven | None:
    """Why this code proves nothing; None where it does, and then it never does so again.

    Wrong codes are counted in the caller's transaction, so this is returned for the caller to commit before it is
    raised. The member's row stays locked until then: of two that send one code at once, one is believed.
    """
    factor = session.scalar(sa.select(SecondFactor).where(SecondFactor.member_id == member.id).with_for_update())
    if factor is None:
        return NoFactor(member.email)
    now = _now(session)
    if factor.locked_until is not None and factor.locked_until > now:
        return _locked(factor.locked_until - now)
    digits = code.replace(" ", "")
    if len(digits) != 6 or not (digits.isascii() and digits.isdecimal()):
        return NotProven("Give the six digits that your authenticator shows now.", "code_refused")
    totp, today = pyotp.TOTP(factor.secret, interval=STEP), int(now.timestamp()) // STEP
    steps = range(today - DRIFT, today + DRIFT + 1)
    fitting = [step for step in steps if hmac.compare_digest(totp.generate_otp(step), digits)]
    if not fitting:
        return _wrong(session, factor, member, origin, now)
    if factor.last_step is not None and fitting[-1] <= factor.last_step:
        return NotProven("That code was used already: wait until the next one is shown, and give that.", "code_refused")
    factor.last_step, factor.wrong, factor.locked_until = fitting[-1], 0, None
    return None


def used(session: Session, member: Member, origin: str, subject: str) -> None:
    """Write down what a code was given for, once that is done.

    Not before: an audit entry locks its chain, which whoever plans for an agency takes last.
    """
    _record(session, member, member.email, origin, "used", after={"for": subject})


def _wrong(session: Session, factor: SecondFactor, member: Member, origin: str, now: datetime) -> NotProven:
    if factor.wrong + 1 < MOST_WRONG:
        factor.wrong += 1
        _record(session, member, member.email, origin, "refused", after={"in_a_row": factor.wrong})
        return NotProven(
            "That code is wrong or too old: give the six digits that your authenticator shows now.", "code_refused"
        )
    factor.wrong, factor.locked_until = 0, now + LOCKED_FOR
    _record(session, member, member.email, origin, "locked", after={"minutes": int(LOCKED_FOR.total_seconds()) // 60})
    return _locked(LOCKED_FOR)


def _locked(for_: timedelta) -> NotProven:
    minutes = -(-int(for_.total_seconds()) // 60)
    return NotProven(
        f"{MOST_WRONG} wrong codes in a row: your second factor is locked. Try again in {minutes} minutes.",
        "second_factor_locked",
    )


def _now(session: Session) -> datetime:
    moment: datetime = session.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
    return moment


def _record(
    session: Session, member: Member, by: str, origin: str, what: str, **facts: dict[str, bool | int | str]
) -> None:
    audit.record(
        session, by, origin, f"factor.{what}", member.email, agency_id=member.agency_id or OPERATOR_AGENCY, **facts
    )
