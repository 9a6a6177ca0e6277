"""The register of what customers say they lost: what may stand in it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from billing.errors import BadRequest, Conflict, NotAllowed, NotFound
from billing.models import Customer
from billing.money import Money
from billing.outages import damages
from billing.outages.models import ReportedDamage
from tenants.db import OPERATOR, Database
from tenants.models import Member
from tests.billing.outages.august import DECLARED
from tests.factories import AgencyFactory, CustomerFactory, IncidentFactory, MemberFactory, building


@pytest.fixture
def known(db: Database) -> tuple[str, str]:
    """An incident and a customer."""
    with building(db):
        return IncidentFactory().id, CustomerFactory().id


@pytest.fixture
def finance(db: Database) -> Member:
    with building(db):
        member: Member = MemberFactory()
    return member


def kept(db: Database) -> int:
    with db.work(OPERATOR) as session:
        return session.scalars(sa.select(sa.func.count()).select_from(ReportedDamage)).one()


@pytest.mark.parametrize(
    ("amount", "what"),
    [(0, "x"), (-1, "x"), (10**12 + 1, "x"), (1, " "), (1, "x" * 1_001), (1, "a\u202eb"), (1, "a\x00b")],
)
def test_what_cannot_be_is_refused_and_leaves_no_trace(
    db: Database, known: tuple[str, str], finance: Member, amount: int, what: str
) -> None:
    incident, customer = known
    with pytest.raises(BadRequest), db.work(OPERATOR) as session:
        damages.report(session, DECLARED, incident, customer, Money(amount, "usd"), what, finance, "test")
    assert kept(db) == 0


def test_an_entry_needs_an_incident_and_a_customer(db: Database, known: tuple[str, str], finance: Member) -> None:
    incident, customer = known
    for one, other in (("inc_none", customer), (incident, "cus_none")):
        with pytest.raises(NotFound), db.work(OPERATOR) as session:
            damages.report(session, DECLARED, one, other, Money(1, "usd"), "x", finance, "test")
    assert kept(db) == 0


def test_a_form_sent_twice_at_once_enters_one_loss(db: Database, known: tuple[str, str], finance: Member) -> None:
    incident, customer = known

    def enter(what: str = "Boosts", form: str | None = "one", amount: int = 4_500) -> int:
        with db.work(OPERATOR) as session:
            loss = Money(amount, "usd")
            return damages.report(session, DECLARED, incident, customer, loss, what, finance, "test", form=form).id

    with ThreadPoolExecutor(4) as pool:
        assert len({entered.result() for entered in [pool.submit(enter) for _ in range(8)]}) == 1
    for other in ({"what": "Posts"}, {"amount": 4_501}):
        with pytest.raises(Conflict, match="open the report again"):
            enter(**other)  # type: ignore[arg-type]
    assert kept(db) == 1
    enter(form="another")  # meant: the same loss once more
    enter(form=None)
    enter(form=None)
    assert kept(db) == 4


def test_it_is_entered_by_finance_alone_and_an_agencys_own_for_its_customers(
    db: Database, known: tuple[str, str], finance: Member
) -> None:
    incident, customer = known
    with building(db) as session:
        of_it = session.scalars(sa.select(Customer.agency_id).where(Customer.id == customer)).one()
        own = MemberFactory(role="agency-finance", agency_id=of_it)
        others = MemberFactory(role="agency-finance", agency_id=AgencyFactory().id)
        people = [MemberFactory(role="auditor"), MemberFactory(role="approver"), others]
    for member in people:
        with pytest.raises(NotAllowed, match="finance"), db.work(OPERATOR) as session:
            damages.report(session, DECLARED, incident, customer, Money(1, "usd"), "Boosts", member, "test")
    assert kept(db) == 0
    for member in (finance, own):
        with db.work(OPERATOR) as session:
            damages.report(session, DECLARED, incident, customer, Money(1, "usd"), "Boosts", member, "test")
    assert kept(db) == 2


@pytest.mark.parametrize(
    ("text", "currency", "amount"),
    [("45.00", "usd", 4_500), ("45", "usd", 4_500), ("45.5", "usd", 4_550), ("45", "jpy", 45), ("1.234", "kwd", 1_234)],
)
def test_an_amount_is_read_as_it_is_written(text: str, currency: str, amount: int) -> None:
    assert damages.read_amount(text, currency) == Money(amount, currency)


@pytest.mark.parametrize("text", ["1,000.00", "1.000,00", "(5)", "$5", "5.", "-5", "1e3", "٤٥", "45.001", "", "45 00"])
def test_an_amount_that_could_mean_two_things_is_refused(text: str) -> None:
    with pytest.raises(BadRequest, match=r"45\.00"):
        damages.read_amount(text, "usd")
