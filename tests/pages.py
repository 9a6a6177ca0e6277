"""Every page that wsgi.py serves beyond the sign-in and the signs of life: a test of the contract compares."""

from billing import portal
from billing.outages import console, customers, desk, reports, status
from billing.outages.messages import console as messages_console
from webhooks import console as webhooks_console
from webhooks import views as webhook_views
from webhooks.events import console as events_console

BLUEPRINTS = (
    console.blueprint, customers.blueprint, desk.blueprint, reports.blueprint, messages_console.blueprint,
    webhooks_console.blueprint, portal.blueprint, status.blueprint, webhook_views.blueprint, events_console.blueprint,
)  # fmt: skip
