"""Days of an agency's own time zone in a whole plan: each total worked out by hand.

Prices are such that an hour, or a day, of the period is a round amount or nearly one.
"""

from datetime import UTC, datetime

import pytest

from billing.outages.planning import Declaration
from tenants.db import Database
from tenants.models import Agency
from tenants.policy import set_policy
from tests.billing.outages.august import FACEBOOK_IS_DOWN, August
from tests.factories import AgencyFactory, CustomerFactory, building, paid_invoice, subscribed


def at(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=UTC)  # type: ignore[arg-type, misc]


def counting(august: August, time_zone: str, granularity: str = "day") -> Agency:
    """An agency there, that counts so."""
    with building(august.db) as session:
        agency: Agency = AgencyFactory(slug="there", time_zone=time_zone)
        session.flush()
        set_policy(session, at(2019, 1, 1), agency, {"granularity": granularity}, august.finance, "test")
    return agency


MARCH = at(2019, 3, 1), at(2019, 4, 1)
OCTOBER = at(2019, 10, 1), at(2019, 11, 1)
LEAP = at(2020, 2, 1), at(2020, 3, 1)


@pytest.mark.parametrize(
    ("time_zone", "period", "net", "outage", "amount"),
    [
        # 31 March 2019 is 30 March 23:00 to 31 March 22:00 UTC: 23 of March's 744 hours of 74.40. By UTC it were 24.00.
        pytest.param(
            "Europe/Berlin", MARCH, 7_440, (at(2019, 3, 31, 10), at(2019, 3, 31, 11)), 230, id="a day of 23 hours"
        ),
        # The same day and the next one, of which the first two hours are March's by UTC: 25 hours.
        pytest.param(
            "Europe/Berlin", MARCH, 7_440, (at(2019, 3, 31, 21, 30), at(2019, 3, 31, 22, 30)), 250,
            id="never more than the period",
        ),
        # 27 October 2019 is 26 October 22:00 to 27 October 23:00 UTC: 25 of October's 744 hours.
        pytest.param(
            "Europe/Berlin", OCTOBER, 7_440, (at(2019, 10, 27, 10), at(2019, 10, 27, 11)), 250, id="a day of 25 hours"
        ),
        # 29 February 2020 is 28 February 23:00 to 29 February 23:00 UTC: 24 of February's 696 hours of 69.60.
        pytest.param(
            "Europe/Berlin", LEAP, 6_960, (at(2020, 2, 29, 10), at(2020, 2, 29, 11)), 240, id="29 February"
        ),
        # In Kiritimati (UTC+14) it begins on 28 February at 10:00 UTC: the hour is that of 00:30 to 01:30 on the 1st.
        pytest.param(
            "Pacific/Kiritimati", LEAP, 6_960, (at(2020, 2, 29, 10, 30), at(2020, 2, 29, 11, 30)), 140,
            id="1 March elsewhere, of which 14 hours are February's by UTC",
        ),
        # A year that has a 29 February: 1 of 366 days of 366.00, and 1 of 365 of 365.00 where it has none.
        pytest.param(
            "UTC", (at(2019, 3, 1), at(2020, 3, 1)), 36_600, (at(2020, 2, 29, 10), at(2020, 2, 29, 11)), 100,
            id="a year of 366 days",
        ),
        pytest.param(
            "UTC", (at(2020, 3, 1), at(2021, 3, 1)), 36_500, (at(2021, 2, 28, 10), at(2021, 2, 28, 11)), 100,
            id="a year of 365 days",
        ),
    ],
)  # fmt: skip
def test_a_day_is_as_long_as_it_is_where_the_agency_lives(
    db: Database, time_zone: str, period: tuple[datetime, datetime], net: int, outage: tuple[datetime, datetime],
    amount: int,
) -> None:  # fmt: skip
    august = August(db)
    agency = counting(august, time_zone)
    with building(db):
        customer = CustomerFactory(agency=agency)
        invoice = paid_invoice(
            customer, august.pages, net, subscription=subscribed(customer, august.pages), period=period
        )
    declaration, now = Declaration("facebook", *outage), at(2021, 3, 1)
    (grant,) = august.preview(declaration, now).grants
    assert (grant["invoice"], grant["amount"]) == (invoice.id, amount)
    incident = august.declare(declaration, now)
    assert august.give_back(incident) == {invoice.id: amount}


def test_an_outage_that_goes_on_is_counted_to_the_end_of_the_agencys_day(db: Database) -> None:
    """From 22 August 20:00 to 26 August 14:00 UTC, 31.00 for August, whose 744 hours are 31 days.

    In UTC five days are touched. In Kiritimati, 14 hours ahead, it is the 23rd, 10:00 to the 27th, 04:00: five as well,
    but up to the 30th, 08:00 UTC, which is 22:00 there, eight, and in UTC nine.
    """
    august = August(db)
    there = counting(august, "Pacific/Kiritimati")
    with building(db) as session:
        here = session.get_one(Agency, august.agency.id)
        set_policy(session, at(2019, 1, 1), here, {"granularity": "day"}, august.finance, "test")
        sold = []
        for agency in (there, here):
            customer = CustomerFactory(agency=agency)
            sold.append(paid_invoice(customer, august.pages, subscription=subscribed(customer, august.pages)).id)
    incident = august.declare(FACEBOOK_IS_DOWN)
    assert august.give_back(incident) == dict.fromkeys(sold, 500)
    august.resolve(incident)
    assert august.give_back(incident) == dict(zip(sold, (300, 400), strict=True))
