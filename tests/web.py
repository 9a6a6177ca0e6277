"""The Flask app for tests, and browsers that are signed in to it."""

import re
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pyotp
import sqlalchemy as sa
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tenants import factors, people, web
from tenants.clock import Clock, FixedClock
from tenants.db import OPERATOR, Database
from tenants.house import House
from tenants.models import Member
from tenants.settings import Settings

NOW = datetime(2019, 8, 26, 14, 0, tzinfo=UTC)
SECRET = "a-secret-for-tests-that-is-long-enough"
CSRF = re.compile(r'name="csrf_token" value="([^"]+)"')


def house_of(database: Database, *, public_url: str = "http://127.0.0.1", clock: Clock | None = None) -> House:
    settings = Settings(
        embedded=False,
        database_url="",
        database_owner_url="",
        celery_broker_url="memory://",
        stripe_secret_key="",
        stripe_api_base=None,
        stripe_webhook_secrets=(),
        secret_key=SECRET,
        public_url=public_url,
        smtp_url=None,
        clock="system",
    )
    return House(settings=settings, database=database, clock=clock or FixedClock(NOW))


def app_of(house: House, *blueprints: Blueprint) -> Flask:
    return web.make_app(house, blueprints)


def link_for(house: House, member: Member) -> str:
    """The path of a fresh sign-in link."""
    with house.database.work(OPERATOR) as session:
        return f"/sign-in/{people.link_for_member(session, member, SECRET, 'test', 'test')}"


def link_for_customer(house: House, agency_id: int, customer_id: str) -> str:
    with house.database.work(OPERATOR) as session:
        return f"/sign-in/{people.link_for_customer(session, agency_id, customer_id, SECRET, 'test', 'test')}"


def browser(app: Flask, link: str = "") -> FlaskClient:
    """A new browser; with a link it goes through the door first."""
    client = app.test_client()
    if link:
        answer = send(client, link, link, {})
        assert answer.status_code == 303, answer.text
    return client


def fresh_code(client: FlaskClient, email: str) -> str:
    """What this member's authenticator shows now, of a second factor that is enrolled anew: so it was never used."""
    with client.application.extensions["house"].database.work(OPERATOR) as session:
        member = session.scalars(sa.select(Member).where(Member.email == email)).one()
        secret, _ = factors.enrol(session, member, "test", "test")
    return pyotp.TOTP(secret).now()


def send(client: FlaskClient, page: str, action: str, fields: dict[str, str | list[str]]) -> TestResponse:
    """Open `page`, and send its form's token with these fields to `action`."""
    shown = client.get(page)
    token = CSRF.search(shown.text)
    assert token, f"{page} has no form: {shown.status_code}"
    return client.post(urlsplit(action).path, data={**fields, "csrf_token": token[1]})
