"""The operator's finance and its approver at work on what a shop sold: whole incidents, from the declaration on."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from billing import importing
from billing.errors import PlanChanged
from billing.outages import approvals, incidents, journal, queries, reconcile, report, tasks
from billing.outages.models import Grant
from billing.outages.planning import Declaration
from tenants.db import OPERATOR
from tenants.house import House
from tenants.models import Member
from tests.journeys.shop import DECLARED, STARTED, Shop


@dataclass
class Desk:
    """Two people of the operator, and what they do in this shop."""

    shop: Shop
    house: House
    people: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with self.house.database.work(OPERATOR) as session:
            people = [Member(email=f"{role}@example.com", role=role) for role in ("finance", "approver")]
            session.add_all(people)
            session.flush()
            self.people = {one.role: one.id for one in people}

    def begin(self, policy: str | None = None) -> str:
        """26 August, 14:00: the account is imported, and Facebook declared and approved, gone since the 22nd."""
        self.shop.now(DECLARED)
        importing.import_account(self.house, "")
        incident = self.declare("facebook", STARTED, policy=policy)
        self.approve(incident)
        return incident

    def declare(
        self,
        platform: str,
        since: datetime,
        until: datetime | None = None,
        policy: str | None = None,
        agencies: tuple[str, ...] = (),
    ) -> str:
        with self.house.database.work(OPERATOR) as session:
            by = session.get_one(Member, self.people["finance"])
            declaration = Declaration(platform, since, until, policy=policy, agencies=agencies)
            return incidents.declare(session, self.house.clock.now(), declaration, by, "test").id

    def resolve(self, incident: str, at: datetime) -> None:
        with self.house.database.work(OPERATOR) as session:
            by = session.get_one(Member, self.people["finance"])
            incidents.resolve(session, self.house.clock.now(), incident, by, "test", at=at)

    def retire(self, incident: str, **moves: str) -> None:
        with self.house.database.work(OPERATOR) as session:
            by = session.get_one(Member, self.people["finance"])
            incidents.retire(
                session, self.house.clock.now(), incident, by, "test", reason="Cut off for good", moves=moves
            )

    def approve(self, incident: str) -> None:
        """What waits, if anything does, reviewed again where it has changed; then until nothing is left to do."""
        while fingerprint := self.waits(incident):
            with suppress(PlanChanged), self.house.database.work(OPERATOR) as session:
                by = session.get_one(Member, self.people["approver"])
                approvals.approve(session, self.house.clock.now(), incident, by, fingerprint, "test")
        tasks.work_until_quiet(self.house, incident, 120)

    def waits(self, incident: str) -> str | None:
        with self.house.database.work(OPERATOR) as session:
            fingerprint: str | None = queries.shown(session, incident)["fingerprint"]
        return fingerprint

    def given(self) -> dict[str, dict[str, int]]:
        """What each customer has had back, by incident."""
        found: dict[str, dict[str, int]] = {}
        with self.house.database.work(OPERATOR) as session:
            rows = session.execute(
                sa.select(Grant.customer_id, Grant.incident_id, sa.func.sum(Grant.amount))
                .where(Grant.state == "succeeded")
                .group_by(Grant.customer_id, Grant.incident_id)
            )
            for customer, incident, amount in rows:
                found.setdefault(customer, {})[incident] = int(amount)
        return found

    def agrees_but_for_reductions(self, incident: str) -> None:
        assert reconcile.reconcile(self.house, incident).differences == []
        self.journal_agrees(incident)
        with self.house.database.work(OPERATOR) as session:
            refunds = session.scalars(sa.select(sa.func.sum(Grant.refund)).where(Grant.state == "succeeded")).one()
        assert sum(charge["refunded"] for charge in self.shop.ledger()["charges"]) == refunds

    def agrees(self, *incident_ids: str) -> None:
        """Our books, what is handed to the accounts, and the sandbox's own ledger say the same."""
        for incident in incident_ids:
            assert reconcile.reconcile(self.house, incident).differences == []
            self.journal_agrees(incident)
        refunded = sum(charge["refunded"] for charge in self.shop.ledger()["charges"])
        assert refunded == sum(sum(one.values()) for one in self.given().values())

    def journal_agrees(self, incident: str) -> dict[str, int]:
        """Each account of the journal comes to what the report says, in every currency; what each comes to."""
        with self.house.database.work(OPERATOR) as session:
            told = report.report(session, self.house.clock.now(), incident)
            made = list(journal.postings(report.documents(session, incident), incident))
        sums: Counter[tuple[str, str]] = Counter()
        entries: Counter[tuple[int, str]] = Counter()
        for one in made:
            sums[one.account, one.currency] += one.credit - one.debit
            entries[one.entry, one.currency] += one.credit - one.debit
        assert not any(entries.values())
        for money in told["money"]:
            comes_to = {account: sums[account, money["currency"]] for account, _ in sums}
            ways = {
                "refunded": comes_to.get(journal.STRIPE, 0), "credited": comes_to.get(journal.CREDIT, 0),
                "reduced": comes_to.get(journal.RECEIVABLE, 0), "paid_by_hand": comes_to.get(journal.OUTSIDE, 0),
                "for_a_person": comes_to.get(journal.PAYABLE, 0),
            }  # fmt: skip
            assert ways == {name: money[name] for name in ways}
        return {account: amount for (account, _), amount in sums.items() if amount}

    def paused(self) -> list[Any]:
        return [self.shop.subscription(id)["pause_collection"] for id in self.shop.subscriptions]
