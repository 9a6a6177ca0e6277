"""The customers of the story whose refund is worked out by hand: what each does in Stripe, and what it gets back.

The outage begins on Thursday 22 August 2019 at 20:00 UTC. 90 hours later, on Monday at 14:00, finance declares it; 90
more hours later, on Friday 30 August at 08:00, it is over. August has 744 hours: each stretch is 90/744 = 15/124 of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sandbox.calls import Api

BEGINS: Final = datetime(2018, 10, 1, tzinfo=UTC)
AUGUST: Final = datetime(2019, 8, 1, tzinfo=UTC)
OUTAGE: Final = datetime(2019, 8, 22, 20, tzinfo=UTC)
DECLARED: Final = datetime(2019, 8, 26, 14, tzinfo=UTC)
RESOLVED: Final = datetime(2019, 8, 30, 8, tzinfo=UTC)


@dataclass
class World:
    """What the story made: ids by name, for whoever tells it."""

    api: Api
    prices: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """(product, currency, interval) -> price id."""
    weights: dict[str, dict[str, int]] = field(default_factory=dict)
    """Price id -> basis points by platform."""
    coupons: dict[str, str] = field(default_factory=dict)
    taxes: dict[str, str] = field(default_factory=dict)
    customers: dict[str, str] = field(default_factory=dict)
    """Name of a case -> customer id."""
    subscriptions: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Customer id -> their subscription as it was made."""
    cards: dict[str, str] = field(default_factory=dict)
    """Customer id -> the card that they pay with."""

    def subscribe(
        self, customer: str, product: str, currency: str, interval: str, quantity: int = 1, **more: Any
    ) -> None:
        """Begin a subscription, paid with the customer's card."""
        items = [{"price": self.prices[product, currency, interval], "quantity": quantity}]
        if more.get("collection_method") != "send_invoice":
            more["default_payment_method"] = self.cards[customer]
        self.subscriptions[customer] = self.api.post("/v1/subscriptions", customer=customer, items=items, **more)

    def invoice(self, customer: str) -> dict[str, Any]:
        """The customer's newest invoice, with its payments."""
        found = self.api.get("/v1/invoices", customer=customer, limit=1, expand=["data.payments"])
        newest: dict[str, Any] = found["data"][0]
        return newest


Deed = Callable[[World, str], None]
"""Something that a customer does: the world, and the customer's id."""
Parts = dict[str, int]
"""What goes back, by channel, in the currency's smallest unit: refund, credit (to the balance), reduce, out_of_band."""


@dataclass(frozen=True)
class Case:
    """One customer: what it does and when, and what the two runs give back to it."""

    name: str
    why: str
    does: tuple[tuple[datetime, Deed], ...]
    first: Parts
    """The run of the declaration, for 22 August 20:00 to 26 August 14:00."""
    second: Parts
    """The run of the resolution, for 26 August 14:00 to 30 August 08:00."""
    currency: str = "usd"
    card: str = "pm_card_visa"
    left_out: str | None = None
    """Why it gets nothing although something is owed."""
    pause: str | None = "ours"
    """Whose pause holds its billing meanwhile: ours, its owner's own, or nobody's (None)."""


def _starts(product: str, currency: str = "usd", interval: str = "month", **more: Any) -> Deed:
    def start(world: World, customer: str) -> None:
        asked = {key: value(world) if callable(value) else value for key, value in more.items()}
        world.subscribe(customer, product, currency, interval, **asked)

    return start


def _changes(to: str) -> Deed:
    def change(world: World, customer: str) -> None:
        subscription = world.subscriptions[customer]
        item = subscription["items"]["data"][0]["id"]
        world.api.post(
            f"/v1/subscriptions/{subscription['id']}",
            items=[{"id": item, "price": world.prices[to, "usd", "month"]}],
            proration_behavior="always_invoice",
        )

    return change


def _payment_intent(world: World, customer: str) -> str:
    paid: str = world.invoice(customer)["payments"]["data"][0]["payment"]["payment_intent"]
    return paid


def _refunds_half_by_hand(world: World, customer: str) -> None:
    world.api.post("/v1/refunds", payment_intent=_payment_intent(world, customer), amount=1_550)


def _is_disputed(world: World, customer: str) -> None:
    world.api.control("disputes", {"payment_intent": _payment_intent(world, customer)})


def _pauses_itself(world: World, customer: str) -> None:
    world.api.post(f"/v1/subscriptions/{world.subscriptions[customer]['id']}", pause_collection={"behavior": "void"})


def _has_credit(world: World, customer: str) -> None:
    world.api.post(f"/v1/customers/{customer}/balance_transactions", amount=-1_240, currency="usd")


def _card_stops_working(world: World, customer: str) -> None:
    card = world.api.post("/v1/payment_methods/pm_card_chargeCustomerFail/attach", customer=customer)["id"]
    world.api.post(f"/v1/subscriptions/{world.subscriptions[customer]['id']}", default_payment_method=card)


def _is_paid_out_of_band(world: World, customer: str) -> None:
    world.api.post(f"/v1/invoices/{world.invoice(customer)['id']}/pay", paid_out_of_band=True)


def _pays(amount: int) -> Deed:
    def pay(world: World, customer: str) -> None:
        intent = world.api.post(
            "/v1/payment_intents", amount=amount, currency="usd", customer=customer, confirm=True, off_session=True,
            payment_method=world.cards[customer],
        )  # fmt: skip
        invoice = world.invoice(customer)["id"]
        world.api.post(f"/v1/invoices/{invoice}/attach_payment", payment_intent=intent["id"])

    return pay


def _on(day: int, hour: int = 0, month: int = 8) -> datetime:
    return datetime(2019, month, day, hour, tzinfo=UTC)


_BY_INVOICE: Final[dict[str, Any]] = {"collection_method": "send_invoice", "days_until_due": 7}

CASES: Final = (
    Case(  # 31.00 x 15/124 = 3.75, and as much again until 30 August 08:00
        "plain", "The whole plan lives on Facebook",
        ((AUGUST, _starts("pages")),),
        {"refund": 375}, {"refund": 375},
    ),
    Case(  # 31.00 x 60 % x 15/124 = 2.25
        "duo", "Three fifths of the plan live on Facebook",
        ((AUGUST, _starts("duo")),),
        {"refund": 225}, {"refund": 225},
    ),
    Case(  # 365.00 for 365 days is 1.00 a day; 90 h = 3.75 days
        "annual", "A year was paid in advance",
        ((BEGINS, _starts("pages", interval="year")),),
        {"refund": 375}, {"refund": 375},
    ),
    Case(
        # 7.00 for the 168 h from Tuesday 20 August: x 90/168 = 3.75. Until Tuesday 27 August 00:00 ten hours more:
        # 7.00 x 100/168 = 4.1667, so 4.17 - 3.75 = 0.42. The week from then on is a draft: 7.00 x 80/168 = 3.3333.
        "weekly", "A week was paid, and the next one is held as a draft",
        ((_on(20), _starts("pages", interval="week")),),
        {"refund": 375}, {"refund": 42, "reduce": 333},
    ),
    Case(  # 31.00 - 20 % = 24.80; x 15/124 = 3.00
        "coupon", "What counts is the price after the discount",
        ((AUGUST, _starts("pages", discounts=lambda world: [{"coupon": world.coupons["fifth"]}])),),
        {"refund": 300}, {"refund": 300},
    ),
    Case(  # 31.00, in which 20 % tax is contained: 31.00 were paid; x 15/124 = 3.75
        "tax inside", "The tax in the price goes back with it",
        ((AUGUST, _starts("pages", "eur", default_tax_rates=lambda world: [world.taxes["inclusive"]])),),
        {"refund": 375}, {"refund": 375}, currency="eur",
    ),
    Case(  # 31.00 + 20 % = 37.20; x 15/124 = 4.50
        "tax on top", "The tax on top goes back too",
        ((AUGUST, _starts("pages", "eur", default_tax_rates=lambda world: [world.taxes["exclusive"]])),),
        {"refund": 450}, {"refund": 450}, currency="eur",
    ),
    Case(  # JPY 3,100 x 15/124 = 375
        "yen", "Yen have no hundredths",
        ((AUGUST, _starts("pages", "jpy")),),
        {"refund": 375}, {"refund": 375}, currency="jpy",
    ),
    Case(
        "trial", "A trial costs nothing: paused, nothing owed",
        ((_on(20), _starts("pages", trial_period_days=14)),),
        {}, {},
    ),
    Case(
        # Pages, 31.00 for August: 31.00 x 90/744 = 3.75. On 16 August 12:00, for the 372 h that are left, -15.50 of
        # pages and +31.00 of pages-pro (62.00 a month): 15.50 x 90/372 = 3.75. Two invoices, 7.50 together.
        "upgrade", "What was paid for the time after the change counts",
        ((AUGUST, _starts("pages")), (_on(16, 12), _changes("pages-pro"))),
        {"refund": 750}, {"refund": 750},
    ),
    Case(
        # Pages-pro, 62.00 for August: 62.00 x 90/744 = 7.50. For the 372 h after 16 August 12:00 -31.00 and +15.50:
        # -15.50 x 90/372 = -3.75, which lowers the invoice that was paid before: 3.75.
        "downgrade", "The credit for the change is taken off",
        ((AUGUST, _starts("pages-pro")), (_on(16, 12), _changes("pages"))),
        {"refund": 375}, {"refund": 375},
    ),
    Case(
        # 93.00 for all networks, 35 % of it Facebook: 93.00 x 35 % x 15/124 = 3.9375, half up 3.94. For 180 h 7.875,
        # half up 7.88, less 3.94: 3.94. Paid as 88.00 and then 5.00: of the 5.00 the second run finds 1.06, and takes
        # the other 2.88 from the 88.00.
        "two payments", "Back to the newest payment first",
        ((AUGUST, _starts("suite", **_BY_INVOICE)), (_on(2), _pays(8_800)), (_on(3), _pays(500))),
        {"refund": 394}, {"refund": 394},
    ),
    Case(  # 31.00, of which the balance paid 12.40, two fifths: 3.75 = 1.50 to the balance + 2.25 to the card
        "part balance", "Each part goes back the way it came",
        ((AUGUST - timedelta(hours=1), _has_credit), (AUGUST, _starts("pages"))),
        {"refund": 225, "credit": 150}, {"refund": 225, "credit": 150},
    ),
    Case(
        # Of 31.00 half went back by hand, so half is owed: 3.75 / 2 = 1.875, half up 1.88. For 180 h 3.75, less 1.88:
        # 1.87.
        "half by hand", "Half of the payment had gone back already",
        ((AUGUST, _starts("pages")), (_on(24), _refunds_half_by_hand)),
        {"refund": 188}, {"refund": 187},
    ),
    Case(
        "disputed", "The bank holds the money",
        ((AUGUST, _starts("pages")), (_on(20), _is_disputed)),
        {}, {}, left_out="disputed",
    ),
    Case(  # The 31.00 for August are open, because the card declines: 3.75 less is due
        "past due", "Nothing was paid, so less is due",
        ((_on(1, month=7), _starts("pages")), (_on(20, month=7), _card_stops_working)),
        {"reduce": 375}, {"reduce": 375},
    ),
    Case(  # 31.00 x 15/124 = 3.75, by bank transfer
        "out of band", "Paid outside Stripe, so a person pays it back",
        ((AUGUST, _starts("pages", **_BY_INVOICE)), (_on(2), _is_paid_out_of_band)),
        {"out_of_band": 375}, {"out_of_band": 375},
    ),
    Case(  # 31.00 x 15/124 = 3.75, off the next invoice
        "refund refused", "The card refuses refunds: credit instead",
        ((AUGUST, _starts("pages")),),
        {"credit": 375}, {"credit": 375}, card="pm_card_refundRefused",
    ),
    Case(  # 31.00 x 15/124 = 3.75
        "own pause", "Its owner had paused it: left as it was",
        ((AUGUST, _starts("pages")), (_on(10), _pauses_itself)),
        {"refund": 375}, {"refund": 375}, pause="owner",
    ),
    Case(
        "independent", "This plan needs no platform",
        ((AUGUST, _starts("reports")),),
        {}, {}, pause=None,
    ),
)  # fmt: skip
"""Facebook Pages cost 31.00 a month. Amounts that are no multiple of a cent are rounded half up, per invoice."""
