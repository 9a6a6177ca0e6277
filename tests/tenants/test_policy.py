"""An agency's policy: what it says, what it leaves to the operator, who may say it, and that nothing said is lost."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from tenants.db import OPERATOR, Database
from tenants.models import OPERATOR_AGENCY, Agency, AuditEntry, Member
from tenants.policy import BadPolicy, NotYourPolicy, Policy, in_force, of_json, set_policy

NOW = datetime(2019, 8, 26, 14, tzinfo=UTC)


@pytest.fixture
def ids(db: Database) -> dict[str, int]:
    with db.work(OPERATOR) as session:
        acme, umbra = Agency(slug="acme", name="Acme"), Agency(slug="umbra", name="Umbra")
        session.add_all([acme, umbra])
        session.flush()
        people = [
            Member(email="finance@x.example", role="finance"), Member(email="approver@x.example", role="approver"),
            Member(email="admin@acme.example", role="agency-admin", agency_id=acme.id),
            Member(email="admin@umbra.example", role="agency-admin", agency_id=umbra.id),
            Member(email="money@acme.example", role="agency-finance", agency_id=acme.id),
        ]  # fmt: skip
        session.add_all(people)
        return {"acme": acme.id, "umbra": umbra.id, "operator": OPERATOR_AGENCY}


def said(db: Database, agency: int, by: str, **changes: Any) -> Policy:
    with db.work(OPERATOR) as session:
        person = session.scalars(sa.select(Member).where(Member.email == by)).one()
        return set_policy(session, NOW, session.get_one(Agency, agency), changes, person, "test")


def found(db: Database) -> dict[int, Policy]:
    with db.work(OPERATOR) as session:
        return in_force(session)


def test_what_nobody_said_is_the_default(db: Database, ids: dict[str, int]) -> None:
    assert found(db) == dict.fromkeys(ids.values(), Policy())


def test_an_agency_says_what_it_changes_and_follows_the_operator_in_the_rest(db: Database, ids: dict[str, int]) -> None:
    said(db, ids["acme"], "admin@acme.example", granularity="day")
    said(db, ids["operator"], "finance@x.example", grants="credit", granularity="hour")
    policies = found(db)
    assert policies[ids["acme"]] == Policy(grants="credit", granularity="day")
    assert policies[ids["umbra"]] == Policy(grants="credit", granularity="hour")
    said(db, ids["acme"], "admin@acme.example", granularity=None)
    assert found(db)[ids["acme"]] == Policy(grants="credit", granularity="hour")


def test_minimums_are_set_one_currency_at_a_time(db: Database, ids: dict[str, int]) -> None:
    said(db, ids["acme"], "admin@acme.example", minimums={"usd": 100})
    assert said(db, ids["acme"], "admin@acme.example", minimums={"eur": 50}).minimums == {"usd": 100, "eur": 50}


def test_every_version_is_kept_with_its_audit_entry(db: Database, ids: dict[str, int]) -> None:
    said(db, ids["acme"], "admin@acme.example", grants="full")
    said(db, ids["acme"], "finance@x.example", grants="none")
    with db.work(OPERATOR) as session:
        versions = session.execute(sa.text("SELECT no, settings FROM policy_versions ORDER BY no")).all()
        entries = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "agency.policy_set")).all()
    assert [tuple(row) for row in versions] == [(1, {"grants": "full"}), (2, {"grants": "none"})]
    assert [(entry.before["grants"], entry.after["grants"]) for entry in entries if entry.before and entry.after] == [
        ("prorated", "full"), ("full", "none"),
    ]  # fmt: skip
    assert {entry.agency_id for entry in entries} == {ids["acme"]}


def test_no_version_is_ever_changed(db: Database, ids: dict[str, int]) -> None:
    said(db, ids["acme"], "admin@acme.example", grants="full")
    with pytest.raises(ProgrammingError), db.work(OPERATOR) as session:
        session.execute(sa.text("UPDATE policy_versions SET settings = '{}'"))


@pytest.mark.parametrize("by", ["approver@x.example", "admin@umbra.example", "money@acme.example"])
def test_only_its_admin_and_operator_finance_set_it(db: Database, ids: dict[str, int], by: str) -> None:
    with pytest.raises(NotYourPolicy, match=r"the policy of acme is set by its admin"):
        said(db, ids["acme"], by, grants="full")
    assert found(db)[ids["acme"]] == Policy()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"grants": "generous"}, "A policy grants prorated, full, credit or none."),
        ({"granularity": "week"}, "Time is counted by second, hour or day."),
        ({"gap": -1}, "A gap is 0 to 172,800 seconds"),
        ({"recovery": 10**9}, "A recovery is 0 to 172,800 seconds"),
        ({"minimums": {"USD": 1}}, "A minimum names its currency"),
        ({"minimums": {"usd": -1}}, "A minimum is a whole number"),
        ({"minimums": {"usd": "much"}}, "Not a valid integer"),
        ({"pause_from_bp": 0}, "from a lost share of 1 to 10,000 basis points"),
        ({"hold": "forget"}, "keep_as_draft or void"),
        ({"settle": "never"}, "Settle at both"),
        ({"settle_days": 0}, "Settle every 1 to 366 days."),
        ({"promise_days": 91}, "within 0 to 90 business days"),
        ({"generosity": 1}, "generosity: Unknown field."),
        ({"grants": "prorated", "gap": "long"}, "gap: Not a valid integer."),
        ({}, "That is the policy of acme already"),
    ],
)
def test_what_is_no_policy_is_refused_in_a_sentence(
    db: Database, ids: dict[str, int], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadPolicy, match=sentence):
        said(db, ids["acme"], "admin@acme.example", **changes)
    assert found(db)[ids["acme"]] == Policy()


def test_a_policy_reads_back_as_it_was_written_down() -> None:
    policy = Policy(grants="full", gap=60, minimums={"usd": 100}, settle="every", settle_days=3)
    assert of_json(policy.to_json()) == policy
