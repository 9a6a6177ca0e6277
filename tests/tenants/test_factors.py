"""A second factor: which codes are taken, and how often; who is locked and for how long; where its secret is not."""

import base64
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pyotp
import pytest
import sqlalchemy as sa
import time_machine

from tenants import factors
from tenants.db import OPERATOR, Database, Scope
from tenants.models import AuditEntry, Member, SecondFactor
from tests.databases import waiting
from tests.factories import AgencyFactory, MemberFactory, building

ANN, BEN = "ann@operator.example", "ben@operator.example"
NOW = 1_566_828_000
"""26 August 2019, 14:00:00 UTC: the beginning of a step, 52,227,600 of them since 1970."""
STEP = 52_227_600


class Devices:
    """Two people with authenticators, before a clock of the database that the test sets."""

    def __init__(self, db: Database) -> None:
        self.db = db
        with building(db):
            self.people = {email: MemberFactory(email=email) for email in (ANN, BEN)}
        self.secrets = {email: self.enrol(email) for email in (ANN, BEN)}

    def enrol(self, email: str) -> str:
        with self.db.work(OPERATOR) as session:
            return factors.enrol(session, self.people[email], "cli", "cli")[0]

    def shows(self, step: int = STEP, email: str = ANN) -> str:
        return pyotp.TOTP(self.secrets[email]).generate_otp(step)

    def wrong(self, email: str = ANN) -> str:
        """Six digits that no step from two before now to two after it shows."""
        near = {self.shows(STEP + drift, email) for drift in range(-2, 3)}
        return next(code for code in ("000000", "111111", "222222", "333333", "444444", "555555") if code not in near)

    def gives(self, code: str, email: str = ANN) -> str:
        """What is said to that code; nothing where it is taken."""
        with self.db.work(OPERATOR) as session:
            refusal = factors.refusal(session, session.get_one(Member, self.people[email].id), code, "console")
        return refusal.message if refusal else ""

    def kept(self, email: str = ANN) -> SecondFactor:
        with self.db.work(OPERATOR) as session:
            return session.get_one(SecondFactor, self.people[email].id)

    def audited(self) -> list[tuple[str, str, str]]:
        with self.db.work(OPERATOR) as session:
            entries = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.seq))
            return [(entry.actor, entry.action, entry.subject) for entry in entries]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set the database's clock."""

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(factors, "_now", lambda _: datetime.fromtimestamp(seconds, UTC))

    set_to(NOW)
    return set_to


@pytest.fixture
def devices(db: Database, at: Callable[[float], None]) -> Devices:
    return Devices(db)


def test_the_code_of_the_standard_is_taken(devices: Devices, at: Callable[[float], None]) -> None:
    """RFC 6238, appendix B: at 59 seconds the key 12345678901234567890 shows 94287082, of which six digits are last."""
    with devices.db.work(OPERATOR) as session:
        factor = session.get_one(SecondFactor, devices.people[ANN].id)
        factor.secret = base64.b32encode(b"12345678901234567890").decode()
    at(59)
    assert devices.gives("287 082") == ""


@pytest.mark.parametrize(
    ("drift", "sentence"),
    [(-2, "wrong or too old"), (-1, ""), (0, ""), (1, ""), (2, "wrong or too old")],
    ids=["two behind", "one behind", "the same", "one ahead", "two ahead"],
)
def test_a_device_may_be_one_step_off(devices: Devices, drift: int, sentence: str) -> None:
    assert sentence in devices.gives(devices.shows(STEP + drift))
    assert bool(sentence) == (devices.kept().last_step is None)


def test_the_age_of_a_code_is_the_databases(db: Database) -> None:
    """Whatever clock the program runs by: that of a story is in 2019."""
    devices = Devices(db)
    with db.work(OPERATOR) as session:
        seconds = session.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())::bigint")).scalar_one()
    with time_machine.travel(datetime(2019, 8, 26, 14, tzinfo=UTC)):
        assert "wrong or too old" in devices.gives(pyotp.TOTP(devices.secrets[ANN]).now())
        assert devices.gives(devices.shows(seconds // 30)) == ""


def test_a_code_is_taken_once_and_none_before_it(devices: Devices, at: Callable[[float], None]) -> None:
    assert devices.gives(devices.shows()) == ""
    assert "used already: wait until the next one" in devices.gives(devices.shows())
    assert "used already" in devices.gives(devices.shows(STEP - 1))
    assert devices.gives(devices.shows(STEP + 1)) == ""  # a device that is ahead
    at(NOW + 30)
    assert "used already" in devices.gives(devices.shows(STEP + 1))
    at(NOW + 60)
    assert devices.gives(devices.shows(STEP + 2)) == ""
    assert devices.kept().wrong == 0  # to send one twice is no guess


def test_one_code_sent_at_once_by_many_is_taken_once(devices: Devices) -> None:
    assert sorted(at_once(devices, [devices.shows()] * 6)) == ["", *["used"] * 5]


def test_many_guesses_at_once_are_no_more_than_five(devices: Devices) -> None:
    assert sorted(at_once(devices, [devices.wrong()] * 9)) == [*["locked"] * 5, *["wrong"] * 4]


def at_once(devices: Devices, codes: list[str]) -> list[str]:
    """What is said to each, where all of them are under way before the first of them can end."""
    said = []

    def give(code: str) -> None:
        sentence = devices.gives(code)
        said.append(next((word for word in ("locked", "used", "wrong") if f" {word}" in sentence), sentence))

    givers = [threading.Thread(target=give, args=(code,)) for code in codes]
    with devices.db.work(OPERATOR) as session:
        session.execute(sa.select(SecondFactor).with_for_update())
        for giver in givers:
            giver.start()
        while waiting(session) < len(codes) and any(giver.is_alive() for giver in givers):
            pass
    for giver in givers:
        giver.join(20)
    return ["locked" if "locked" in one else one for one in said]


def test_five_wrong_in_a_row_lock_one_member_for_a_quarter_of_an_hour(
    devices: Devices, at: Callable[[float], None]
) -> None:
    for _ in range(4):
        assert "wrong or too old" in devices.gives(devices.wrong())
    locked = "5 wrong codes in a row: your second factor is locked. Try again in {} minutes."
    assert devices.gives(devices.wrong()) == locked.format(15)
    assert devices.gives(devices.shows()) == locked.format(15)
    assert devices.gives(devices.shows(email=BEN), BEN) == ""  # nobody else is locked out
    at(NOW + 14 * 60 + 1)
    assert devices.gives(devices.shows(STEP + 28)) == locked.format(1)
    at(NOW + 15 * 60)
    assert devices.gives(devices.shows(STEP + 30)) == ""
    wrong = [(ANN, "factor.refused", ANN)] * 4  # nothing of what was sent while it was locked
    assert devices.audited()[2:] == [*wrong, (ANN, "factor.locked", ANN)]


def test_a_right_code_forgets_the_wrong_ones(devices: Devices, at: Callable[[float], None]) -> None:
    for step in range(2):
        at(NOW + 30 * step)
        for _ in range(4):
            assert "wrong or too old" in devices.gives(devices.wrong())
        assert devices.gives(devices.shows(STEP + step)) == ""
    assert devices.kept().locked_until is None


@pytest.mark.parametrize("code", ["", " ", "12345", "1234567", "12345a", "-12345", "١٢٣٤٥٦", "1e1000", "12345\x00"])
def test_what_is_no_code_is_no_guess_either(devices: Devices, code: str) -> None:
    assert devices.gives(code) == "Give the six digits that your authenticator shows now."
    assert devices.kept().wrong == 0


def test_a_code_of_somebody_else_is_wrong(devices: Devices) -> None:
    assert "wrong or too old" in devices.gives(devices.shows(email=BEN), ANN)


def test_who_enrols_again_begins_anew(devices: Devices) -> None:
    before = devices.shows()
    for _ in range(5):
        devices.gives(devices.wrong())
    devices.secrets[ANN] = devices.enrol(ANN)
    assert devices.gives(devices.shows()) == ""
    assert "wrong or too old" in devices.gives(before)
    with devices.db.work(OPERATOR) as session:
        factors.remove(session, devices.people[ANN], "cli", "cli")
    assert "has no second factor" in devices.gives(devices.shows())
    with devices.db.work(OPERATOR) as session, pytest.raises(factors.NoFactor, match=f"members enrol {ANN}`"):
        factors.remove(session, devices.people[ANN], "cli", "cli")
    assert [action for _, action, subject in devices.audited() if subject == ANN] == [
        "factor.enrolled", *["factor.refused"] * 4, "factor.locked",
        "factor.enrolled", "factor.refused", "factor.removed",
    ]  # fmt: skip


def test_nobody_in_the_sight_of_an_agency_sees_a_factor(devices: Devices) -> None:
    with building(devices.db):
        agency = AgencyFactory()
    with devices.db.work(Scope(agency.id)) as session:
        assert session.scalars(sa.select(SecondFactor)).all() == []


def test_the_secret_is_written_nowhere_else(devices: Devices, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = devices.secrets[ANN]
    for code in (devices.wrong(), devices.shows(), devices.shows()):
        devices.gives(code)
    assert len(secret) == 32  # 160 bits, as RFC 4226 wants at least 128
    assert secret not in repr(devices.kept()) + str(devices.kept())
    with devices.db.work(OPERATOR) as session:
        entries = session.scalars(sa.select(AuditEntry)).all()
        assert len(entries) == 3
        assert secret not in repr([(entry.before, entry.after, entry.subject) for entry in entries])
    assert secret not in caplog.text
