"""A balance in Stripe that does not carry what is to go back: seen before, waited out, and gone on from by itself."""

import time
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
import requests
import sqlalchemy as sa

from billing import following, importing
from billing.outages import funding, queries, tasks
from billing.outages.findings import Shortage
from billing.outages.funding import Need, Outlook
from billing.outages.models import Grant, Run
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import OPERATOR_AGENCY
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, Shop
from webhooks import inbox
from webhooks import tasks as webhook_tasks

CUSTOMERS = 12


@pytest.fixture
def house(shop: Shop, db: Database) -> House:
    return shop.house(db)


def balance(shop: Shop, **asked: object) -> None:
    account = shop.ledger()["charges"][0]["account"]
    answer = requests.post(f"{shop.url}/_sandbox/balance", json=asked | {"account": account}, timeout=120)
    assert answer.ok, answer.text


def approved(shop: Shop, house: House, db: Database, card: str = "pm_card_visa") -> None:
    """A run over twelve paid months that gives 4.00 of each back, 48.00 in all, from a balance that holds nothing."""
    invoices = shop.sell(CUSTOMERS, card=card)
    shop.now(DECLARED)
    importing.import_account(house, "")
    # What they paid came in long ago; all of it but nothing is paid out to the bank: 31.00 less 1.20 of fees, each.
    balance(shop, covers="available", pay_out=CUSTOMERS * (3_100 - 120))
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.approved_run(session)
        for invoice in invoices:
            shops.grant(session, invoice, refund=400)


def worked(house: House, db: Database) -> Counter[tuple[str, str]]:
    """A minute passes, and the workers work until only time or a person can move anything."""
    with db.work(OPERATOR) as session:
        session.execute(sa.update(Shortage).values(due_at=Shortage.due_at - timedelta(minutes=2)))
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    with db.work(OPERATOR) as session:
        return Counter((channel, state) for channel, state in session.execute(sa.select(Grant.channel, Grant.state)))


def lacking(db: Database) -> list[dict[str, object]]:
    with db.work(OPERATOR) as session:
        shown = queries.shown(session, "inc_1")
        assert ("Stripe has too little money" in "\n".join(queries.in_words(shown))) == bool(shown["lacking"])
        found: list[dict[str, object]] = shown["lacking"]
    return found


def refunded(shop: Shop) -> list[int]:
    return sorted(one["refunded"] for one in shop.ledger()["charges"])


def test_a_run_without_money_waits_and_goes_on_once_the_balance_carries_it(
    shop: Shop, house: House, db: Database
) -> None:
    approved(shop, house, db)
    states = worked(house, db)
    # Three are enough to know; up to four workers had one more each under way.
    assert 3 <= states["refund", "pending"] <= 7
    assert states["refund", "approved"] == CUSTOMERS - states["refund", "pending"]
    assert [(one["currency"], one["queued"], one["holds"]) for one in lacking(db)] == [("usd", 4_800, True)]

    # 4.00 of 48.00: Stripe sends one of those that wait there, and the rest has no reason to move.
    before = states["refund", "approved"]
    balance(shop, top_up=400)
    states = worked(house, db)
    assert states["refund", "approved"] == before

    balance(shop, top_up=4_400)
    following.follow(house, "")
    states = worked(house, db)
    assert states == {("refund", "succeeded"): CUSTOMERS}
    assert refunded(shop) == [400] * CUSTOMERS
    assert lacking(db) == []


def test_what_fails_without_money_is_credited_and_the_rest_waits_for_it(shop: Shop, house: House, db: Database) -> None:
    approved(shop, house, db, card="pm_usBankAccount_success")
    states = worked(house, db)
    lost = states["refund", "failed"]
    assert 1 <= lost <= 4
    assert states["credit", "succeeded"] == lost
    assert states["refund", "approved"] == CUSTOMERS - lost

    balance(shop, top_up=400 * (CUSTOMERS - lost) - 1)
    assert worked(house, db)["refund", "approved"] == CUSTOMERS - lost
    balance(shop, top_up=1)
    states = worked(house, db)
    assert states == {
        ("refund", "succeeded"): CUSTOMERS - lost, ("refund", "failed"): lost, ("credit", "succeeded"): lost,
    }  # fmt: skip
    assert refunded(shop) == [0] * lost + [400] * (CUSTOMERS - lost)


def test_what_a_person_halted_takes_no_money_from_what_goes_on(shop: Shop, house: House, db: Database) -> None:
    """Whoever leaves a run halted for ever must not make all others wait for its money as well."""
    approved(shop, house, db, card="pm_usBankAccount_success")
    with db.work(OPERATOR) as session:
        shops.approved_run(session, "run_2", "resolve")
        session.get_one(Run, ("run_2", OPERATOR_AGENCY)).state = "halted"
        others = sa.select(Grant.id).order_by(Grant.id).offset(CUSTOMERS // 2)
        session.execute(sa.update(Grant).where(Grant.id.in_(others)).values(run_id="run_2"))
    lost = worked(house, db)["refund", "failed"]
    waiting = CUSTOMERS // 2 - lost
    assert [one["queued"] for one in lacking(db)] == [400 * waiting]
    balance(shop, top_up=400 * waiting)
    states = worked(house, db)
    assert (states["refund", "succeeded"], states["refund", "approved"]) == (waiting, CUSTOMERS // 2)
    assert lacking(db) == []


def test_what_stripe_gives_up_waiting_for_is_credited_and_the_rest_goes_on_waiting(
    shop: Shop, house: House, db: Database
) -> None:
    """A card's refund waits at Stripe, and fails in the end. Nobody knows for how long: here for two days."""
    assume = {"now": int(shops.AUGUST.timestamp()), "assume": {"refunds_wait_days": 2}}
    requests.post(f"{shop.url}/_sandbox/reset", json=assume, timeout=120).raise_for_status()
    shop.open()
    approved(shop, house, db)
    waited = worked(house, db)["refund", "pending"]
    assert waited >= 3
    shop.now(DECLARED + timedelta(days=3))
    following.follow(house, "", inbox.taking("", live=False))
    webhook_tasks.sweep(house, time.monotonic() + 30)
    states = worked(house, db)
    assert states == {
        ("refund", "failed"): waited, ("credit", "succeeded"): waited, ("refund", "approved"): CUSTOMERS - waited,
    }  # fmt: skip
    assert [one["holds"] for one in lacking(db)] == [True]
    balance(shop, top_up=400 * (CUSTOMERS - waited))
    states = worked(house, db)
    assert states["refund", "succeeded"] == CUSTOMERS - waited
    assert refunded(shop) == [0] * waited + [400] * (CUSTOMERS - waited)
    assert lacking(db) == []


def test_what_needs_no_money_does_not_wait_for_any(shop: Shop, house: House, db: Database) -> None:
    invoices = shop.sell(2)
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.approved_run(session)
        shops.grant(session, invoices[0], refund=400)
        shops.grant(session, invoices[1], credit=250)
        session.add(
            Shortage(
                account="", currency="usd", refused=3, failed=True, holds=True, since=DECLARED,
                due_at=sa.func.now() + timedelta(hours=1),
            )
        )  # fmt: skip
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    with db.work(OPERATOR) as session:
        found = session.execute(sa.select(Grant.channel, Grant.state).order_by(Grant.id)).all()
    assert [tuple(row) for row in found] == [("refund", "approved"), ("credit", "succeeded")]


def test_the_outlook_is_the_balance_beside_what_is_asked_of_it(shop: Shop, house: House, db: Database) -> None:
    approved(shop, house, db)
    with db.work(OPERATOR) as session:
        needs = funding.needs(session, [(OPERATOR_AGENCY, "usd", 1_000), (OPERATOR_AGENCY, "usd", 500)])
    # 15.00 asked for, after the 48.00 that are approved already.
    assert needs == [Need("", "usd", 1_500, 4_800)]
    balance(shop, top_up=6_200)
    [outlook] = funding.outlook(house, needs)
    assert (outlook.available, outlook.lacking) == (6_200, 100)
    assert outlook.to_json()["lacking"] == 100
    assert "1.00 USD are lacking" in outlook.in_words() or "$1.00 are lacking" in outlook.in_words()
    balance(shop, top_up=100)
    [outlook] = funding.outlook(house, needs)
    assert (outlook.lacking, "carries them" in outlook.in_words()) == (0, True)


def test_a_balance_that_cannot_be_seen_is_said_so(house: House) -> None:
    blind = replace(house, settings=replace(house.settings, stripe_secret_key=""))
    [outlook] = funding.outlook(blind, [Need("", "usd", 1_500)])
    assert outlook == Outlook("", "usd", 1_500, 0, None)
    assert (outlook.lacking, "cannot be seen" in outlook.in_words()) == (None, True)
    [other] = funding.outlook(house, [Need("", "eur", 1_500)])
    assert other.lacking is None
