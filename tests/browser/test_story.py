"""The story as people live it: in a real browser, on a real server, with a real worker, against a real HTTP Stripe."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pyotp
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from waitress import create_server

from billing import importing, portal
from billing.outages import explain, incidents, tasks
from billing.outages.findings import Reconciliation
from billing.outages.planning import Declaration
from tenants import factors, people
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import OPERATOR_AGENCY, Member
from tests.journeys import shop
from tests.pages import BLUEPRINTS
from tests.web import app_of

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
RESOLVED = datetime(2019, 8, 30, 8, tzinfo=UTC)


@dataclass
class Stage:
    """Everything running: the shop's sandbox, the program with its worker, and its address."""

    shop: shop.Shop
    house: House
    address: str
    finance: Member
    approver: Member


@pytest.fixture
def stage(db: Database) -> Iterator[Stage]:
    with shop.opened() as sold:
        sold.sell(2)
        sold.now(shop.DECLARED)
        house = sold.house(db)
        importing.import_account(house, "")
        with db.work(OPERATOR) as session:
            finance = Member(email="finance@operator.example", role="finance")
            approver = Member(email="approver@operator.example", role="approver")
            session.add_all([finance, approver])
        celery = tasks.make_celery(house)
        db.ring = tasks.bell(celery)
        app = app_of(house, *BLUEPRINTS)
        app.extensions[portal.ARITHMETIC] = explain.of_invoice
        server = create_server(app, host="127.0.0.1", port=0, threads=8)
        serving = threading.Thread(target=server.run, name="pages")
        serving.start()
        worker = tasks.work_in_this_process(celery)
        try:
            yield Stage(sold, house, f"http://127.0.0.1:{server.effective_port}", finance, approver)
        finally:
            worker.stop()
            server.close()
            serving.join(10)


@pytest.fixture
def chrome(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


def signed_in(chrome: Browser, stage: Stage, link: str, complaints: list[str]) -> Page:
    page = chrome.new_context(locale="en-US", timezone_id="America/New_York").new_page()

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", heard)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if stage.address not in request.url else None)
    page.goto(stage.address + link)
    page.get_by_role("main").get_by_role("button").click()
    return page


def test_finance_declares_and_everybody_sees_what_concerns_them(chrome: Browser, stage: Stage) -> None:
    """31.00 for August, 90 of 744 hours lost: 3.75 each at the declaration, and 3.75 more after 180 hours."""
    complaints: list[str] = []
    finance = signed_in(chrome, stage, link_for_member(stage, stage.finance), complaints)
    finance.get_by_role("button", name="Declare an outage").click()
    finance.get_by_label("Platform").select_option("facebook")
    finance.get_by_label("Began (UTC)").fill("2019-08-22T20:00:00")
    finance.get_by_label("Title, as customers read it").fill("Facebook has revoked our access")
    secret = enrolled(stage, stage.finance)
    finance.get_by_role("button", name="Preview", exact=True).click()
    expect(finance.get_by_text("$7.50").first).to_be_visible()  # two customers, 3.75 each
    finance.get_by_label("Code").fill(pyotp.TOTP(secret).now())
    finance.get_by_role("button", name="Declare this outage").click()
    expect(finance.get_by_text("Subscriptions looked at: 2 of 2")).to_be_visible(timeout=20_000)
    assert stage.shop.subscription(stage.shop.subscriptions[0])["pause_collection"]["behavior"] == "keep_as_draft"

    approver = signed_in(chrome, stage, link_for_member(stage, stage.approver), complaints)
    approver.get_by_role("link", name="Facebook has revoked our access").click()
    approver.get_by_role("button", name="Approve these refunds").click()
    expect(approver.get_by_text("Grants done: 2 of 2")).to_be_visible(timeout=20_000)  # without a reload: it is pushed
    assert [charge["refunded"] for charge in stage.shop.ledger()["charges"]] == [375, 375]

    stage.shop.now(RESOLVED)
    finance.reload()
    finance.get_by_text("The outage is over").click()
    finance.get_by_role("button", name="Resolve").click()
    approver.reload()
    approver.get_by_role("button", name="Approve these refunds").click()
    expect(approver.get_by_text("2 released")).to_be_visible(timeout=20_000)
    assert [charge["refunded"] for charge in stage.shop.ledger()["charges"]] == [750, 750]
    assert stage.shop.subscription(stage.shop.subscriptions[0])["pause_collection"] is None

    customer = signed_in(chrome, stage, link_for_customer(stage, stage.shop.customers[0]), complaints)
    why = "Facebook has been unavailable since Aug 22, 2019"
    expect(customer.get_by_text(why).first).to_be_visible()
    customer.get_by_role("main").get_by_role("table").get_by_role("link").first.click()
    expect(customer.locator(".arithmetic")).to_contain_text("$31.00 × 324,000 ÷ 2,678,400 = $3.75")
    expect(customer.locator(".why").first).to_contain_text("= $7.50, less $3.75 given back before.")
    customer.goto(f"{stage.address}/status")
    expect(customer.get_by_role("heading", name="Everything works")).to_be_visible()
    expect(customer.get_by_text("works for us again since 30 August 2019, 08:00 UTC")).to_be_visible()
    assert complaints == []


def test_on_a_phone_nothing_is_wider_than_the_screen(chrome: Browser, stage: Stage) -> None:
    with stage.house.database.work(OPERATOR) as session:
        outage = Declaration("facebook", shop.STARTED, None)
        incident = incidents.declare(session, shop.DECLARED, outage, stage.finance, "test").id
        explained = [{"currency": one, "amount": 28_003, "explained": 28_003} for one in ("eur", "gbp", "jpy", "usd")]
        session.add(Reconciliation(scope=incident, ended_at=shop.DECLARED, objects=185, explained=explained))
    context = chrome.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark")
    page = context.new_page()
    page.goto(stage.address + link_for_member(stage, stage.finance))
    page.get_by_role("main").get_by_role("button").click()
    preview = "/console/incidents/new?platform=facebook&since=2019-08-22T20:00:00"
    here = f"/console/incidents/{incident}"
    for path in ("/console", preview, here, f"{here}/report", "/console/desk", "/console/messages/words", "/status"):
        page.goto(stage.address + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path


def enrolled(stage: Stage, member: Member) -> str:
    """The secret of a second factor."""
    with stage.house.database.work(OPERATOR) as session:
        return factors.enrol(session, member, "test", "test")[0]


def link_for_member(stage: Stage, member: Member) -> str:
    with stage.house.database.work(OPERATOR) as session:
        token = people.link_for_member(session, member, stage.house.settings.secret_key, "test", "test")
    return f"/sign-in/{token}"


def link_for_customer(stage: Stage, customer_id: str) -> str:
    key = stage.house.settings.secret_key
    with stage.house.database.work(OPERATOR) as session:
        token = people.link_for_customer(session, OPERATOR_AGENCY, customer_id, key, "test", "test")
    return f"/sign-in/{token}"
