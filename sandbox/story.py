"""The demo's world, made through Stripe's API alone: an operator, its agencies and their client businesses, 2018-2019.

Everybody pays for plans that live on platforms which somebody else runs. On Thursday 22 August 2019 at 20:00 UTC one of
them cuts the operator off; the story ends on Monday 26 August at 14:00, when finance is about to declare the incident.
`sandbox.cases` has the customers worked out by hand; the crowd around them is drawn from a seed.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sandbox.calls import Api
from sandbox.cases import AUGUST, BEGINS, CASES, DECLARED, Case, World

SEED: Final = 20190822

AGENCIES: Final = (
    ("Harbour Social", "usd", "America/New_York"), ("Bright Lantern", "usd", "America/Chicago"),
    ("Copper Kettle Media", "usd", "America/Denver"), ("Nine Elms Digital", "gbp", "Europe/London"),
    ("Tidewater Studio", "usd", "America/New_York"), ("Rhein & Ruhr Medien", "eur", "Europe/Berlin"),
    ("Atelier Garonne", "eur", "Europe/Paris"), ("Kanda Creative", "jpy", "Asia/Tokyo"),
    ("Maple & Main", "usd", "America/Toronto"), ("Fjord Kommunikasjon", "eur", "Europe/Oslo"),
    ("Blue Heron Agency", "usd", "America/Los_Angeles"), ("Calle Ocho Social", "usd", "America/New_York"),
    ("Pennine Posts", "gbp", "Europe/London"), ("Sapporo Signal", "jpy", "Asia/Tokyo"),
    ("Lagoon Collective", "eur", "Europe/Rome"), ("Prairie Voices", "usd", "America/Winnipeg"),
    ("Cedar & Pine", "usd", "America/Vancouver"), ("Studio Vltava", "eur", "Europe/Prague"),
    ("Clyde Content", "gbp", "Europe/London"), ("Golden Hour Social", "usd", "America/Phoenix"),
    ("Tramontana", "eur", "Europe/Madrid"), ("Umeda Works", "jpy", "Asia/Tokyo"),
    ("Low Country Social", "usd", "America/New_York"), ("Dockside Digital", "gbp", "Europe/London"),
)  # fmt: skip
"""Name, currency, time zone. The first one has the customers of `CASES`."""

PRODUCTS: Final = {
    "pages": ("Facebook Pages", 3_100, {"facebook": 10_000}),
    "pages-pro": ("Facebook Pages Pro", 6_200, {"facebook": 10_000}),
    "duo": ("Facebook and Instagram", 3_100, {"facebook": 6_000, "instagram": 4_000}),
    "suite": ("All Networks", 9_300, {"facebook": 3_500, "instagram": 2_500, "x": 2_000, "linkedin": 1_000}),
    "business": ("LinkedIn and X", 4_500, {"linkedin": 6_000, "x": 4_000}),
    "reports": ("Printed Reports", 1_900, {}),
}
"""Name, price of a month, and how many basis points of it each platform carries."""
CURRENCIES: Final = ("usd", "eur", "gbp", "jpy")

TRADES: Final = (
    "Bakery",
    "Dental",
    "Florist",
    "Garage",
    "Books",
    "Yoga",
    "Bistro",
    "Optics",
    "Toys",
    "Roofing",
    "Vet",
    "Cafe",
)
PLACES: Final = (
    "Elm Street",
    "Riverside",
    "Old Town",
    "Market Square",
    "Hillcrest",
    "Station Road",
    "North Pier",
    "Mill Lane",
)

Event = tuple[datetime, Callable[[], None]]


def tell(
    api: Api,
    size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cases: Sequence[Case] = CASES,
) -> World:
    """Make the whole world in an empty sandbox and leave its clock at the declaration.

    `size` is the number of client businesses, the cases among them; at least the cases are made.
    """
    world = World(api)
    events = sorted([*_cases(world, cases), *_crowd(world, size - len(cases))], key=lambda event: event[0])
    now = BEGINS
    api.control("clock", {"now": int(now.timestamp())})
    _catalog(world)
    for number, (when, happens) in enumerate(events):
        if when > now:
            api.control("clock", {"now": int(when.timestamp())})
            now = when
        happens()
        progress(number + 1, len(events))
    api.control("clock", {"now": int(DECLARED.timestamp())})
    return world


def slug(name: str) -> str:
    """The short name of an agency, as customers' metadata has it."""
    return "-".join("".join(sign if sign.isalnum() else " " for sign in name.lower()).split())


def _catalog(world: World) -> None:
    for product, (name, month, weights) in PRODUCTS.items():
        metadata = {"platform_weights": ",".join(f"{platform}={share}" for platform, share in weights.items())}
        made = world.api.post("/v1/products", name=name, metadata=metadata if weights else {})
        week, year = (700, 36_500) if product == "pages" else (month * 12 // 52, month * 10)
        for currency in CURRENCIES:
            for interval, amount in (("month", month), ("week", week), ("year", year)):
                price = world.api.post(
                    "/v1/prices", product=made["id"], currency=currency, unit_amount=amount,
                    recurring={"interval": interval},
                )["id"]  # fmt: skip
                world.prices[product, currency, interval] = price
                world.weights[price] = weights
    world.coupons["fifth"] = world.api.post("/v1/coupons", percent_off=20, duration="forever", name="A fifth off")["id"]
    for kind in ("inclusive", "exclusive"):
        rate = world.api.post("/v1/tax_rates", display_name="VAT", percentage=20, inclusive=kind == "inclusive")
        world.taxes[kind] = rate["id"]


def _customer(world: World, name: str, agency: str, card: str) -> str:
    customer: str = world.api.post(
        "/v1/customers", name=name, email=f"{slug(name)}@example.com", metadata={"agency": slug(agency)}
    )["id"]
    world.cards[customer] = world.api.post(f"/v1/payment_methods/{card}/attach", customer=customer)["id"]
    return customer


def _cases(world: World, cases: Sequence[Case]) -> Iterator[Event]:
    for case in cases:

        def arrive(name: str = case.name, card: str = case.card) -> None:
            world.customers[name] = _customer(world, f"{name.title()} & Co", AGENCIES[0][0], card)

        yield case.does[0][0], arrive
        for when, deed in case.does:
            yield when, lambda deed=deed, name=case.name: deed(world, world.customers[name])  # type: ignore[misc]


def _crowd(world: World, businesses: int) -> Iterator[Event]:
    """Client businesses of all agencies, with the extras of every day: coupons, taxes, trials, several seats."""
    dice = random.Random(SEED)
    for number in range(businesses):
        agency, currency, _zone = AGENCIES[number % len(AGENCIES)]
        interval = dice.choices(("month", "week", "year"), (90, 5, 5))[0]
        product = dice.choices(tuple(PRODUCTS), (20, 8, 22, 30, 12, 8))[0]
        quantity = dice.choices((1, 2, 5), (80, 15, 5))[0]
        name = f"{dice.choice(PLACES)} {dice.choice(TRADES)} {number + 1}"
        more = _extras(dice)

        def arrive(
            name: str = name, agency: str = agency, product: str = product, currency: str = currency,
            interval: str = interval, quantity: int = quantity, more: dict[str, Any] = more,
        ) -> None:  # fmt: skip
            asked = {key: value(world) if callable(value) else value for key, value in more.items()}
            world.subscribe(
                _customer(world, name, agency, "pm_card_visa"), product, currency, interval, quantity, **asked
            )

        yield _begins(dice, interval), arrive


def _begins(dice: random.Random, interval: str) -> datetime:
    """Monthly ones began within the thirty days from 24 July, weekly ones in the first half of August, annual ones in
    the 150 days from 1 February 2019."""
    seconds = dice.randrange(30 * 86_400)
    if interval == "month":
        return AUGUST - timedelta(days=8) + timedelta(seconds=seconds)
    if interval == "week":
        return AUGUST + timedelta(seconds=seconds // 2)
    return AUGUST - timedelta(days=181) + timedelta(seconds=seconds * 5)


def _extras(dice: random.Random) -> dict[str, Any]:
    chance = dice.random()
    if chance < 0.08:
        return {"discounts": lambda world: [{"coupon": world.coupons["fifth"]}]}
    if chance < 0.14:
        return {"default_tax_rates": lambda world: [world.taxes["inclusive"]]}
    if chance < 0.22:
        return {"default_tax_rates": lambda world: [world.taxes["exclusive"]]}
    if chance < 0.26:
        return {"trial_period_days": dice.choice((7, 14, 30))}
    return {}
