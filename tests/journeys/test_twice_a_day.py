"""A platform that goes and comes back twice within the day for which Stripe repeats its answer to a key."""

from datetime import UTC, datetime, timedelta

from billing import following, importing
from tenants.db import Database
from tests.journeys.desk import Desk
from tests.journeys.shop import Shop

MORNING = datetime(2019, 9, 3, 6, tzinfo=UTC)


def test_an_invoice_is_not_collected_in_the_second_outage_either_and_is_after_it(shop: Shop, db: Database) -> None:
    shop.sell(1)
    (customer,), (subscription,) = shop.customers, shop.subscriptions
    broke = shop.post("/v1/payment_methods/pm_card_chargeCustomerFail/attach", customer=customer)["id"]
    shop.post(f"/v1/customers/{customer}", invoice_settings={"default_payment_method": broke})
    shop.now(MORNING)

    def collects() -> bool:
        invoice = shop.get("/v1/invoices", subscription=subscription)["data"][0]
        assert invoice["status"] == "open"
        answer: bool = invoice["auto_advance"]
        return answer

    assert collects()
    desk = Desk(shop, shop.house(db))
    importing.import_account(desk.house, "")
    for hour in (0, 4):
        began = MORNING + timedelta(hours=hour)
        shop.now(began + timedelta(hours=1))
        following.follow(desk.house, "")
        incident = desk.declare("facebook", began)
        desk.approve(incident)
        assert not collects()
        shop.now(began + timedelta(hours=2))
        desk.resolve(incident, began + timedelta(hours=2))
        desk.approve(incident)
        assert collects()
