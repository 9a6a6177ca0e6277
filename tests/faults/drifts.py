"""Ways in which our books and Stripe's come apart, each planted on a customer of its own: by hand in Stripe, as if its
webhook had been lost, or behind the program's back in our rows. Each names what it must be found under."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
import requests
from sqlalchemy.orm import Session

from billing import following, gateway, importing
from billing.outages import tasks
from sandbox.postgres import Urls
from tenants import audit
from tenants.db import OPERATOR, Database
from tenants.house import House
from tests.journeys import shop as shops
from tests.journeys.shop import DECLARED, KEY, Shop


@dataclass
class Books:
    """Customer `n` has one invoice with one grant of 4.00, sent and settled, and a subscription that is held."""

    shop: Shop
    house: House
    admin: psycopg.Connection
    invoices: list[str]

    def sql(self, statement: str, *values: object) -> Any:
        done = self.admin.execute(statement.encode(), values)
        return done.fetchone() if done.description else None

    def step(self, n: int) -> dict[str, Any]:
        asked = (
            "SELECT s.id, s.stripe_id, s.refund_id, s.grant_id, s.payment_id FROM steps s JOIN grants g"
            " ON g.id = s.grant_id WHERE g.invoice_id = %s"
        )
        return dict(zip(("id", "note", "refund", "grant", "payment"), self.sql(asked, self.invoices[n]), strict=True))

    def intent(self, n: int) -> str:
        return str(self.sql("SELECT payment_intent FROM payments WHERE invoice_id = %s", self.invoices[n])[0])

    def ours(self, step: object) -> dict[str, Any]:
        return {"metadata": {"engine": gateway.engine(self.house), "incident": "inc_1", "step": str(step)}}

    def note(self, n: int, **more: Any) -> str:
        made = self.shop.post("/v1/credit_notes", invoice=self.invoices[n], amount=100, credit_amount=100, **more)
        return str(made["id"])

    def refund(self, n: int, **more: Any) -> str:
        return str(self.shop.post("/v1/refunds", payment_intent=self.intent(n), amount=100, **more)["id"])


def four_of_each(session: Session, invoices: Sequence[str]) -> None:
    for invoice in invoices:
        shops.grant(session, invoice, refund=400)
    for number in range(5):
        audit.record(session, "ada@example.com", "cli", "plan.weighed", f"price_{number}", after={"n": number})


@contextmanager
def settled(
    shop: Shop, db: Database, urls: Urls, count: int, give: Callable[[Session, Sequence[str]], None] = four_of_each
) -> Iterator[Books]:
    """`count` customers with billing paused, `give` gives 4.00 of each invoice; everything is known and agrees."""
    house = shop.house(db)
    invoices = shop.sell(count)
    shop.now(DECLARED)
    importing.import_account(house, "")
    with db.work(OPERATOR) as session:
        shops.declared(session)
        shops.approved_run(session)
        shops.pause_all(session)
        give(session, invoices)
    tasks.work_until_quiet(house, "inc_1", timeout=120)
    following.follow(house, "")
    with psycopg.connect(urls.owner.replace("outage_owner@", "postgres@"), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        yield Books(shop, house, admin, invoices)


Plant = Callable[[Books, int], str]


def in_stripe(path: str, found: str, **form: Any) -> Plant:
    """One call by hand. `{sub}`, `{cus}`, `{note}`, `{refund}` and so on stand for what customer n has."""

    def plant(books: Books, n: int) -> str:
        step = books.step(n)
        names = {"sub": books.shop.subscriptions[n], "cus": books.shop.customers[n], "invoice": books.invoices[n]}
        names |= {name: str(value) for name, value in step.items()}
        books.shop.post(path.format(**names), **form)
        return found.format(**names)

    return plant


def in_our_rows(statement: str, found: str) -> Plant:
    def plant(books: Books, n: int) -> str:
        step = books.step(n)
        names = {"sub": books.shop.subscriptions[n], "cus": books.shop.customers[n], "invoice": books.invoices[n]}
        names |= {name: str(value) for name, value in step.items()}
        if "{line}" in statement + found:
            names["line"] = books.sql("SELECT id FROM invoice_lines WHERE invoice_id = %s", names["invoice"])[0]
        if "{entry}" in statement + found:
            names["entry"] = books.sql("SELECT id FROM balance_entries WHERE customer_id = %s", names["cus"])[0]
        books.sql(statement.format(**names))
        return found.format(**names)

    return plant


def cancelled(books: Books, n: int) -> str:
    delete(books, f"/v1/subscriptions/{books.shop.subscriptions[n]}")
    return books.shop.subscriptions[n]


def deleted(books: Books, n: int) -> str:
    cancelled(books, n)
    delete(books, f"/v1/customers/{books.shop.customers[n]}")
    return books.shop.customers[n]


def delete(books: Books, path: str) -> None:
    answer = requests.delete(books.shop.url + path, auth=(KEY, ""), timeout=120)
    assert answer.ok, answer.text


def more_of_it(books: Books, n: int) -> str:
    subscription = books.shop.subscription(books.shop.subscriptions[n])
    item = subscription["items"]["data"][0]["id"]
    books.shop.post(
        f"/v1/subscriptions/{subscription['id']}", items=[{"id": item, "quantity": 3}], proration_behavior="none"
    )
    return str(item)


def one_off(books: Books, n: int) -> str:
    customer = books.shop.customers[n]
    books.shop.post("/v1/invoiceitems", customer=customer, amount=500, currency="usd")
    return str(books.shop.post("/v1/invoices", customer=customer)["id"])


def disputed(books: Books, n: int) -> str:
    asked = {"payment_intent": books.intent(n), "reason": "fraudulent"}
    answer = requests.post(f"{books.shop.url}/_sandbox/disputes", json=asked, timeout=120)
    assert answer.ok, answer.text
    return str(answer.json()["id"])


STEP: Final = "Step {id} ("
ELSEWHERE: Final[dict[str, Plant]] = {
    "our refund came back": in_stripe("/_sandbox/refunds/{refund}/fail", STEP),
    "a second note of our step": lambda b, n: b.note(n, **b.ours(b.step(n)["id"])),
    "a note of a step that is none": lambda b, n: b.note(n, **b.ours(99_999)),
    "a note whose step is no number": lambda b, n: b.note(n, **b.ours("x'); --")),
    "a note of another invoice's step": lambda b, n: b.note(n, **b.ours(b.step(0)["id"])),
    "a note made by hand": lambda b, n: b.note(n),
    "our note says no step any more": in_stripe("/v1/credit_notes/{note}", STEP, metadata={"step": ""}),
    "our note says another step": in_stripe("/v1/credit_notes/{note}", STEP, metadata={"step": "99998"}),
    "our note says another engine": in_stripe("/v1/credit_notes/{note}", STEP, metadata={"engine": "other"}),
    "a refund made by hand": lambda b, n: b.refund(n),
    "a refund of our step beside its note": lambda b, n: b.refund(n, **b.ours(b.step(n)["id"])),
    "a refund of a step that is none": lambda b, n: b.refund(n, **b.ours(99_997)),
    "a refund of another payment's step": lambda b, n: b.refund(n, **b.ours(b.step(0)["id"])),
    "a balance entry made by hand": in_stripe(
        "/v1/customers/{cus}/balance_transactions", "{cus}", amount=-700, currency="usd"
    ),
    "a subscription resumed by hand": in_stripe("/v1/subscriptions/{sub}", "{sub}", pause_collection=""),
    "a pause of another kind": in_stripe("/v1/subscriptions/{sub}", "{sub}", pause_collection={"behavior": "void"}),
    "a subscription cancelled": cancelled,
    "a subscription with more of it": more_of_it,
    "a subscription that ends": in_stripe("/v1/subscriptions/{sub}", "{sub}", cancel_at_period_end="true"),
    "a customer deleted": deleted,
    "a customer with another name": in_stripe("/v1/customers/{cus}", "{cus}", name="Somebody else"),
    "a payment disputed": disputed,
    "an invoice that we never heard of": one_off,
}
HERE: Final[dict[str, Plant]] = {
    "a step names an object that is none": in_our_rows(
        "UPDATE steps SET stripe_id = 'cn_none{id}' WHERE id = {id}", STEP
    ),
    "a step over more": in_our_rows("UPDATE steps SET amount = amount + 1 WHERE id = {id}", STEP),
    "a step in another currency": in_our_rows("UPDATE steps SET currency = 'eur' WHERE id = {id}", STEP),
    "a step with another refund": in_our_rows("UPDATE steps SET refund_id = 're_none' WHERE id = {id}", STEP),
    "a step said to have failed": in_our_rows("UPDATE steps SET state = 'failed' WHERE id = {id}", STEP),
    "a step said to be pending": in_our_rows("UPDATE steps SET state = 'pending' WHERE id = {id}", STEP),
    "a step said to be unsent": in_our_rows("UPDATE steps SET state = 'approved' WHERE id = {id}", STEP),
    "a step said to be cancelled": in_our_rows("UPDATE steps SET state = 'cancelled' WHERE id = {id}", STEP),
    "a step said to need a person": in_our_rows(
        "UPDATE steps SET state = 'needs_person', reason = 'x' WHERE id = {id}", STEP
    ),
    "a step given elsewhere": in_our_rows("UPDATE steps SET state = 'given_elsewhere' WHERE id = {id}", STEP),
    "a step that was removed": in_our_rows("DELETE FROM steps WHERE id = {id}", "{note}"),
    "a step of another account": in_our_rows("UPDATE steps SET stripe_account = 'acct_x' WHERE id = {id}", "{note}"),
    "a step without its events": in_our_rows("DELETE FROM step_events WHERE step_id = {id}", "step {id} "),
    "a step with another event": in_our_rows(
        "UPDATE step_events SET to_state = 'failed' WHERE step_id = {id} AND to_state = 'succeeded'", "step {id} "
    ),
    "a grant over more": in_our_rows(
        "UPDATE grants SET amount = amount + 1, credit = credit + 1 WHERE id = {grant}", "grant {grant} "
    ),
    "a grant in another state": in_our_rows("UPDATE grants SET state = 'unknown' WHERE id = {grant}", "grant {grant} "),
    "a grant of which less is owed": in_our_rows("UPDATE grants SET owed = '1/1' WHERE id = {grant}", "{invoice} "),
    "a grant with other lines": in_our_rows(
        "UPDATE grant_lines SET amount = 1 WHERE grant_id = {grant}", "grant {grant} "
    ),
    "a payment that counts more refunded": in_our_rows(
        "UPDATE payments SET refunded = refunded + 1 WHERE id = '{payment}'", "{payment} "
    ),
    "a payment that counts more reserved": in_our_rows(
        "UPDATE payments SET reserved = reserved + 1 WHERE id = '{payment}'", "{payment} "
    ),
    "a payment of which more was taken": in_our_rows(
        "UPDATE payments SET captured = captured + 1 WHERE id = '{payment}'", "{payment}"
    ),
    "a payment that others refunded": in_our_rows(
        "UPDATE payments SET elsewhere = 5 WHERE id = '{payment}'", "{payment}"
    ),
    "a payment that is disputed": in_our_rows("UPDATE payments SET disputed = 5 WHERE id = '{payment}'", "{payment}"),
    "a payment with an open dispute": in_our_rows(
        "UPDATE payments SET dispute_open = true WHERE id = '{payment}'", "{payment}"
    ),
    "a payment of another charge": in_our_rows(
        "UPDATE payments SET payment_intent = 'pi_none' WHERE id = '{payment}'", "{payment}"
    ),
    "a pause said to be over": in_our_rows(
        "UPDATE pauses SET state = 'released' WHERE subscription_id = '{sub}'", "{sub}"
    ),
    "a pause that was removed": in_our_rows("DELETE FROM pauses WHERE subscription_id = '{sub}'", "{sub}"),
    "a refund that we forgot": in_our_rows("DELETE FROM refunds WHERE id = '{refund}'", "{refund}"),
    "a refund over less": in_our_rows("UPDATE refunds SET amount = 1 WHERE id = '{refund}'", "{refund}"),
    "a refund said to be pending": in_our_rows(
        "UPDATE refunds SET status = 'pending' WHERE id = '{refund}'", "{refund}"
    ),
    "a note that we forgot": in_our_rows("DELETE FROM credit_notes WHERE id = '{note}'", "{note}"),
    "a note over less": in_our_rows("UPDATE credit_notes SET total = 1 WHERE id = '{note}'", "{note}"),
    "a note said to be void": in_our_rows("UPDATE credit_notes SET status = 'void' WHERE id = '{note}'", "{note}"),
    "an invoice over more": in_our_rows("UPDATE invoices SET total = total + 1 WHERE id = '{invoice}'", "{invoice}"),
    "an invoice said to be open": in_our_rows(
        "UPDATE invoices SET status = 'open' WHERE id = '{invoice}'", "{invoice}"
    ),
    "an invoice of which less was paid": in_our_rows(
        "UPDATE invoices SET amount_paid = 1 WHERE id = '{invoice}'", "{invoice}"
    ),
    "a line over more": in_our_rows("UPDATE invoice_lines SET net = net + 1 WHERE id = '{line}'", "{line}"),
    "a line of another time": in_our_rows(
        "UPDATE invoice_lines SET period_end = period_end + interval '1 day' WHERE id = '{line}'", "{line}"
    ),
    "a subscription said to have ended": in_our_rows(
        "UPDATE subscriptions SET status = 'canceled' WHERE id = '{sub}'", "{sub}"
    ),
    "an item said to be more": in_our_rows(
        "UPDATE subscription_items SET quantity = 9 WHERE subscription_id = '{sub}'", "quantity 9"
    ),
    "a customer with another balance": in_our_rows("UPDATE customers SET balance = -5 WHERE id = '{cus}'", "{cus}"),
    "a run that sent more": in_our_rows("UPDATE run_totals SET sent = sent + 1", "run run_1 "),
    "an audit entry that was changed": in_our_rows(
        "UPDATE audit_entries SET actor = 'nobody' WHERE agency_id = 1 AND seq = 2", "audit entry 2"
    ),
    "an audit entry that was removed": in_our_rows(
        "DELETE FROM audit_entries WHERE agency_id = 1 AND seq = 4", "audit entry 5"
    ),
}  # fmt: skip
DRIFTS: Final = {**ELSEWHERE, **HERE}
