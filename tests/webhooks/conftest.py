"""A page that takes Stripe's events, and a small Stripe that its events are about."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tenants.db import Database
from tenants.house import House
from tests.billing.outages.rows import Approved, house_at
from tests.billing.outages.small_stripe import SmallStripe
from tests.billing.wire import listening
from tests.invariants import invariants_hold
from tests.webhooks.posting import SECRETS
from webhooks.views import blueprint

__all__ = ["invariants_hold"]


@pytest.fixture
def stripe() -> Iterator[SmallStripe]:
    with listening() as wire:
        yield SmallStripe(wire)


@pytest.fixture
def world(db: Database, stripe: SmallStripe) -> Approved:
    return Approved(db, stripe).begin()


@pytest.fixture
def house(db: Database, stripe: SmallStripe) -> House:
    house = house_at(stripe.url, db)
    return replace(house, settings=replace(house.settings, stripe_webhook_secrets=SECRETS))


@pytest.fixture
def client(house: House) -> FlaskClient:
    app = Flask("test")
    app.extensions["house"] = house
    app.register_blueprint(blueprint)
    return app.test_client()
