"""Every factory makes a row that the database takes."""

import pytest

from tenants.db import Database
from tests import factories
from tests.factories.building import RowFactory, building

FACTORIES = [thing for thing in vars(factories).values() if isinstance(thing, type) and issubclass(thing, RowFactory)]


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_a_factory_needs_nothing_to_be_said(db: Database, factory: type[RowFactory]) -> None:
    with building(db):
        made = factory()
    assert made.__tablename__


def test_an_invoice_of_one_line_is_paid_by_one_payment(db: Database) -> None:
    with building(db):
        plan = factories.PlanFactory(weights={factories.PlatformFactory(slug="facebook"): 10_000})
        customer = factories.CustomerFactory()
        subscription = factories.subscribed(customer, plan)
        invoice = factories.paid_invoice(customer, plan, subscription=subscription)
    assert (invoice.subscription_id, invoice.amount_paid, invoice.amount_remaining) == (subscription.id, 3100, 0)
