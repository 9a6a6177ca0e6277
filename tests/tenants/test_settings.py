"""Settings: what is understood, what is refused and how, and that no secret is shown."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from sandbox.postgres import MAJOR
from tenants.settings import DEVELOPMENT_SECRET, EMBEDDED, Settings, SettingsError, file_of, read

NOWHERE = Path("/nonexistent/.env")
LIVE = "sk_" + "live_51abc"
LIVE_RESTRICTED = "rk_" + "live_51abc"
LONG_SECRET = "0123456789abcdef0123456789abcdef"
ON_LINE = {"STRIPE_SECRET_KEY": LIVE, "PUBLIC_URL": "https://billing.example.com", "SECRET_KEY": LONG_SECRET}


def test_with_nothing_set_everything_is_on_this_machine() -> None:
    settings = read({}, NOWHERE)
    assert settings.embedded
    assert settings.database_url.startswith("postgresql://outage_app@/outage?host=%2F")
    assert settings.database_owner_url.startswith("postgresql://outage_owner@/outage?host=%2F")
    assert settings.celery_broker_url == "memory://"
    assert settings.stripe_secret_key == ""
    assert settings.stripe_api_base is None
    assert settings.stripe_webhook_secrets == ()
    assert settings.secret_key == DEVELOPMENT_SECRET
    assert settings.public_url == "http://127.0.0.1:8000"
    assert settings.smtp_url is None
    assert settings.clock == "system"
    assert not settings.live


def test_the_embedded_address_is_where_the_launcher_puts_its_server() -> None:
    assert EMBEDDED.name == MAJOR


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("DATABASE_URL", "postgresql://u:p@db/x", "database_url", "postgresql://u:p@db/x"),
        ("DATABASE_URL", "postgres://u:p@db/x", "database_url", "postgresql://u:p@db/x"),
        ("DATABASE_URL", "postgresql+psycopg://u:p@db/x", "database_url", "postgresql://u:p@db/x"),
        ("DATABASE_URL", "postgresql://u:p@db/x", "database_owner_url", "postgresql://u:p@db/x"),
        ("DATABASE_URL", "postgresql://u:p@db/x", "embedded", False),
        ("DATABASE_URL", " ", "embedded", True),
        ("DATABASE_OWNER_URL", "postgres://o@db/x", "database_owner_url", "postgresql://o@db/x"),
        ("CELERY_BROKER_URL", "redis://cache:6379/1", "celery_broker_url", "redis://cache:6379/1"),
        ("CELERY_BROKER_URL", "amqps://u:p@mq//", "celery_broker_url", "amqps://u:p@mq//"),
        ("STRIPE_SECRET_KEY", "sk_test_1", "stripe_secret_key", "sk_test_1"),
        ("STRIPE_API_BASE", "http://127.0.0.1:12111/", "stripe_api_base", "http://127.0.0.1:12111"),
        ("STRIPE_API_BASE", "http://127.0.0.1:12111", "stripe_secret_key", "sk_test_sandbox"),
        ("STRIPE_API_BASE", "https://api.stripe.com/", "stripe_api_base", None),
        ("STRIPE_WEBHOOK_SECRET", "whsec_a", "stripe_webhook_secrets", ("whsec_a",)),
        ("STRIPE_WEBHOOK_SECRET", "whsec_a, whsec_b,", "stripe_webhook_secrets", ("whsec_a", "whsec_b")),
        ("STRIPE_WEBHOOK_SECRET", "whsec_a,acme:whsec_b", "stripe_webhook_secrets", ("whsec_a",)),
        (
            "STRIPE_WEBHOOK_SECRET",
            "acme:whsec_b,acme:whsec_c",
            "agency_webhook_secrets",
            {"acme": ("whsec_b", "whsec_c")},
        ),
        ("PUBLIC_URL", "http://localhost:9000/", "public_url", "http://localhost:9000"),
        ("SMTP_URL", "smtp://mail:25", "smtp_url", "smtp://mail:25"),
        ("WEBHOOK_NETWORKS", "10.1.0.0/16,::1/128", "webhook_networks", (ip_network("10.1.0.0/16"), ip_network("::1"))),
        ("CLOCK", "system", "clock", "system"),
    ],
)
def test_understood(name: str, text: str, field: str, value: object) -> None:
    assert getattr(read({name: text}, NOWHERE), field) == value


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        (ON_LINE | {"PUBLIC_URL": "http://billing.example.com"}, "needs a PUBLIC_URL that begins with https://"),
        (ON_LINE | {"PUBLIC_URL": ""}, "needs a PUBLIC_URL that begins with https://"),
        (ON_LINE | {"SECRET_KEY": ""}, "SECRET_KEY signs the sign-in links"),
        (ON_LINE | {"SECRET_KEY": "", "STRIPE_SECRET_KEY": LIVE_RESTRICTED}, "SECRET_KEY signs the sign-in links"),
        (ON_LINE | {"SECRET_KEY": DEVELOPMENT_SECRET}, "SECRET_KEY signs the sign-in links"),
        (ON_LINE | {"SECRET_KEY": "short"}, "at least 32 characters"),
        (ON_LINE | {"STRIPE_API_BASE": "http://127.0.0.1:1"}, "would send a live key"),
        ({"PUBLIC_URL": "https://billing.example.com"}, "SECRET_KEY signs the sign-in links"),
        ({"DATABASE_URL": "sqlite:///x.db"}, "only PostgreSQL is supported"),
        ({"DATABASE_URL": "mysql://u:p@db/x"}, "only PostgreSQL is supported"),
        ({"DATABASE_URL": "postgresql+asyncpg://u:p@db/x"}, "DATABASE_URL must begin with postgresql://"),
        ({"DATABASE_URL": "somewhere"}, "DATABASE_URL must begin with postgresql://"),
        ({"DATABASE_URL": "postgresql://u:hunter2@db:port/x"}, "DATABASE_URL is no address of a database"),
        ({"DATABASE_OWNER_URL": "sqlite://"}, "DATABASE_OWNER_URL must begin with postgresql://"),
        ({"CLOCK": "sundial"}, "CLOCK must be system or sandbox"),
        ({"CLOCK": "sandbox"}, "set STRIPE_API_BASE to its address"),
        ({"CELERY_BROKER_URL": "sqs://"}, "CELERY_BROKER_URL must begin with redis:// or amqp://"),
        ({"CELERY_BROKER_URL": "redis"}, "CELERY_BROKER_URL must begin with redis:// or amqp://"),
        ({"STRIPE_SECRET_KEY": "pk_test_1"}, "holds a publishable key"),
        ({"STRIPE_SECRET_KEY": "hunter2"}, "must begin with sk_test_"),
        ({"STRIPE_SECRET_KEY": "sk_test_"}, "not a whole key"),
        ({"STRIPE_SECRET_KEY": "sk_test_1 "}, "not a whole key"),
        ({"STRIPE_API_BASE": "localhost:12111"}, "STRIPE_API_BASE must be an http:// or https:// address"),
        ({"STRIPE_API_BASE": "http://host:port"}, "STRIPE_API_BASE must be an http:// or https:// address"),
        ({"STRIPE_WEBHOOK_SECRET": "whsec_a,hunter2"}, "STRIPE_WEBHOOK_SECRET must be one or more signing secrets"),
        ({"STRIPE_WEBHOOK_SECRET": "whsec_"}, "STRIPE_WEBHOOK_SECRET must be one or more signing secrets"),
        ({"STRIPE_WEBHOOK_SECRET": ":whsec_a"}, "STRIPE_WEBHOOK_SECRET must be one or more signing secrets"),
        ({"PUBLIC_URL": "billing.example.com"}, "PUBLIC_URL must be the site's own address"),
        ({"PUBLIC_URL": "https://billing.example.com/app"}, "PUBLIC_URL must be the site's own address"),
        ({"SMTP_URL": "mail:25"}, "SMTP_URL must be smtp://host:port"),
        ({"WEBHOOK_NETWORKS": "10.1.0.7/16"}, "WEBHOOK_NETWORKS must be networks such as 10.1.0.0/16"),
    ],
)
def test_refused_with_one_sentence_that_shows_no_secret(environ: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read(environ, NOWHERE)
    message = str(refusal.value)
    assert sentence in message
    assert message.endswith(".")
    assert "\n" not in message
    for secret in ("51abc", "hunter2", "u:p@"):
        assert secret not in message


def test_a_live_key_works_when_everything_around_it_is_safe() -> None:
    settings = read(ON_LINE, NOWHERE)
    assert settings.live
    assert settings.stripe_api_base is None


def test_the_sandbox_clock_works_beside_a_sandbox() -> None:
    assert read({"CLOCK": "sandbox", "STRIPE_API_BASE": "http://127.0.0.1:12111"}, NOWHERE).clock == "sandbox"


def test_repr_shows_no_secret() -> None:
    shown = repr(
        read(
            ON_LINE
            | {
                "DATABASE_URL": "postgresql://u:databasepassword@db/x",
                "DATABASE_OWNER_URL": "postgresql://o:ownerpassword@db/x",
                "CELERY_BROKER_URL": "redis://:brokerpassword@cache",
                "SMTP_URL": "smtp://u:mailpassword@mail",
                "STRIPE_WEBHOOK_SECRET": "whsec_hook",
            },
            NOWHERE,
        )
    )
    assert "https://billing.example.com" in shown
    for secret in ("password", "51abc", "whsec", LONG_SECRET):
        assert secret not in shown


def _from_file(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    file = tmp_path / ".env"
    file.write_text(text, "utf-8")
    return read(environ or {}, file)


def test_a_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    text = """
    # for development
    export STRIPE_SECRET_KEY='sk_test_file'
    PUBLIC_URL="http://localhost:8001"
    CELERY_BROKER_URL=redis://cache/0 # the shared one
    SMTP_URL=
    SECRET_KEY=a=b
    """
    settings = _from_file(tmp_path, text, {"PUBLIC_URL": "http://localhost:8002", "CELERY_BROKER_URL": ""})
    assert settings.stripe_secret_key == "sk_test_file"
    assert settings.public_url == "http://localhost:8002"
    assert settings.celery_broker_url == "redis://cache/0"
    assert settings.smtp_url is None
    assert settings.secret_key == "a=b"


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.touch()
    assert file_of({}) == file_of({"ENV_FILE": " "}) == Path(".env")
    assert file_of({"ENV_FILE": str(other)}) == other
    assert read({}, file_of({"ENV_FILE": "/dev/null"})) == read({}, NOWHERE)
    with pytest.raises(SettingsError, match=r"^ENV_FILE names no file"):
        file_of({"ENV_FILE": str(NOWHERE)})


def test_a_line_that_is_no_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^Line 2 of \.env is not NAME=value"):
        _from_file(tmp_path, "CLOCK=system\nhunter2\n")


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({}, (25, 25)),
        ({"STRIPE_SECRET_KEY": "sk_test_1"}, (25, 25)),
        ({"STRIPE_API_BASE": "http://127.0.0.1:12111"}, None),
        ({"STRIPE_API_BASE": "http://127.0.0.1:12111", "STRIPE_RATE": "50/20.5"}, (50, 20.5)),
    ],
)
def test_stripes_own_limits_hold_at_stripe_and_none_at_a_sandbox(
    given: dict[str, str], rate: tuple[float, float] | None
) -> None:
    found = read(given).stripe_rate
    assert (None if found is None else (found.account, found.endpoint)) == rate


@pytest.mark.parametrize("given", ["100", "100/", "a/b", "0/25", "100/0.5", "nan/25", "100/25/5"])
def test_a_rate_that_is_none_is_a_sentence(given: str) -> None:
    with pytest.raises(SettingsError, match="write it like 100/25"):
        read({"STRIPE_RATE": given})
