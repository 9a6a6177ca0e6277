"""Stripe's events."""

import factory

from tests.factories.building import AUGUST, RowFactory
from webhooks.models import InboxEvent


class InboxEventFactory(RowFactory):
    class Meta:
        model = InboxEvent

    stripe_account = ""
    event_id = factory.Sequence(lambda n: f"evt_{n}")
    type = "invoice.paid"
    object_kind = "invoice"
    object_id = factory.Sequence(lambda n: f"in_{n}")
    livemode = False
    created_at = AUGUST
