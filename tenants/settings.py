"""Every setting, read once from the environment or a `.env` file, and refused with a sentence that says what to do."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, urlsplit

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

LIVE_KEYS: Final = ("sk_live_", "rk_live_")
SECRET_KEYS: Final = ("sk_test_", "rk_test_", *LIVE_KEYS)
SANDBOX_KEY: Final = "sk_test_sandbox"
STRIPE: Final = "https://api.stripe.com"
DEVELOPMENT_SECRET: Final = "for-development-on-one-machine-only"  # noqa: S105 - refused wherever it would matter
BROKERS: Final = ("memory", "redis", "rediss", "amqp", "amqps")
THIS_MACHINE: Final = ("127.0.0.1", "::1", "localhost")
SHORTEST_SECRET: Final = 32  # characters; a signing key shorter than its hash is the weakest part
EMBEDDED: Final = Path(__file__).resolve().parent.parent / "var" / "postgres" / "18"


class SettingsError(ValueError):
    """A setting that cannot be used; the message is one sentence that says what to do, and shows no secret."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Calls a second that Stripe may get from all processes together."""

    account: float
    endpoint: float


@dataclass(frozen=True, slots=True)
class Settings:
    """What the program was told. Secrets, and addresses that may hold a password, are not in its `repr`."""

    embedded: bool
    database_url: str = field(repr=False)
    database_owner_url: str = field(repr=False)
    celery_broker_url: str = field(repr=False)
    stripe_secret_key: str = field(repr=False)  # "" when none was given
    stripe_api_base: str | None  # None is Stripe
    stripe_webhook_secrets: tuple[str, ...] = field(repr=False)
    """Of the operator's endpoint; an agency's own, by its slug, are `agency_webhook_secrets`."""
    secret_key: str = field(repr=False)
    public_url: str  # without a slash at its end
    smtp_url: str | None = field(repr=False)
    clock: Literal["system", "sandbox"]
    webhook_networks: tuple[IPv4Network | IPv6Network, ...] = ()  # that webhooks may go to although they are not public
    agency_webhook_secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    stripe_rate: Rate | None = None  # None: no call waits for its turn
    anchors: Path | None = None  # the folder where anchors of the database are kept; None: wsgi.py's own

    @property
    def live(self) -> bool:
        """Whether real money moves."""
        return self.stripe_secret_key.startswith(LIVE_KEYS)

    @property
    def installation(self) -> str:
        """What names this installation where several may meet: in Stripe, and beside the database."""
        return hashlib.sha256(self.secret_key.encode()).hexdigest()[:8]


def file_of(environ: Mapping[str, str]) -> Path:
    """The file that may say what `environ` does not: `ENV_FILE`, or `.env` where the program is started.

    Raises `SettingsError` where `ENV_FILE` names nothing.
    """
    named = environ.get("ENV_FILE", "").strip()
    if named and not Path(named).exists():
        raise SettingsError("ENV_FILE names no file; correct it, leave it out for .env, or say /dev/null for none.")
    return Path(named or ".env")


def read(environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
    """The settings of `environ`, and of the file `dotenv` where `environ` is silent. An empty value counts as none.

    Raises `SettingsError` for the first one that cannot be used.
    """
    given = (_in_file(dotenv) if dotenv else {}) | {name: value for name, value in environ.items() if value.strip()}
    database_url = given.get("DATABASE_URL", "")
    api_base = _api_base(given.get("STRIPE_API_BASE", ""))
    secrets = _webhook_secrets(given.get("STRIPE_WEBHOOK_SECRET", ""))
    settings = Settings(
        embedded=not database_url,
        database_url=_postgres("DATABASE_URL", database_url or _embedded("outage_app")),
        database_owner_url=_postgres(
            "DATABASE_OWNER_URL", given.get("DATABASE_OWNER_URL") or database_url or _embedded("outage_owner")
        ),
        celery_broker_url=_broker(given.get("CELERY_BROKER_URL", "memory://")),
        stripe_secret_key=_stripe_key(given.get("STRIPE_SECRET_KEY", SANDBOX_KEY if api_base else "")),
        stripe_api_base=api_base,
        stripe_webhook_secrets=secrets.pop("", ()),
        agency_webhook_secrets=secrets,
        secret_key=given.get("SECRET_KEY", DEVELOPMENT_SECRET),
        public_url=_public_url(given.get("PUBLIC_URL", "http://127.0.0.1:8000")),
        smtp_url=_smtp(given.get("SMTP_URL")),
        clock=_clock(given.get("CLOCK", "system")),
        webhook_networks=_networks(given.get("WEBHOOK_NETWORKS", "")),
        stripe_rate=_rate(given.get("STRIPE_RATE"), given.get("STRIPE_SECRET_KEY", ""), api_base),
        anchors=Path(given["ANCHORS"]) if "ANCHORS" in given else None,
    )
    _fit_together(settings)
    return settings


def _fit_together(settings: Settings) -> None:
    if settings.clock == "sandbox" and settings.stripe_api_base is None:
        raise SettingsError(
            "CLOCK=sandbox follows a sandbox, so set STRIPE_API_BASE to its address or leave CLOCK out."
        )
    if settings.live and settings.stripe_api_base is not None:
        raise SettingsError(
            "STRIPE_API_BASE would send a live key to somebody who is not Stripe; leave it out, or use a test key."
        )
    if settings.live and not settings.public_url.startswith("https://"):
        raise SettingsError(
            "A live Stripe key needs a PUBLIC_URL that begins with https://; set it, or use a test key."
        )
    reachable = urlsplit(settings.public_url).hostname not in THIS_MACHINE
    if settings.secret_key == DEVELOPMENT_SECRET and (settings.live or reachable):
        raise SettingsError(
            "SECRET_KEY signs the sign-in links and has no value of its own yet; set it to a long random text, for "
            "example from `python3 -c 'import secrets; print(secrets.token_hex(32))'`."
        )
    if settings.live and len(settings.secret_key) < SHORTEST_SECRET:
        raise SettingsError(
            f"SECRET_KEY is too short for a live Stripe key; use at least {SHORTEST_SECRET} characters."
        )


def _rate(given: str | None, key: str, api_base: str | None) -> Rate | None:
    """Stripe's own limits at Stripe (https://docs.stripe.com/rate-limits); none at a sandbox."""
    if given is None:
        return None if api_base else Rate(100.0 if key.startswith(LIVE_KEYS) else 25.0, 25.0)
    account, separator, endpoint = given.partition("/")
    try:
        rate = Rate(float(account), float(endpoint))
    except ValueError:
        rate = Rate(0.0, 0.0)
    if not separator or not all(1 <= one <= 10_000 for one in (rate.account, rate.endpoint)):
        raise SettingsError(
            "STRIPE_RATE is calls a second of the account and of each endpoint; write it like 100/25, from 1 to 10000."
        )
    return rate


def _embedded(user: str) -> str:
    return f"postgresql://{user}@/outage?host={quote(str(EMBEDDED), safe='')}&port=5432"


def _postgres(name: str, url: str) -> str:
    """As both psycopg and SQLAlchemy read it."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise SettingsError(
            f"{name} must begin with postgresql:// as only PostgreSQL is supported; leave it out for the embedded one."
        )
    try:
        make_url(f"postgresql://{rest}")
    except (ArgumentError, ValueError) as error:  # the error's own words may hold the password
        raise SettingsError(
            f"{name} is no address of a database; write it like postgresql://name:password@host:5432/database."
        ) from error
    return f"postgresql://{rest}"


def _broker(url: str) -> str:
    if not url.startswith(tuple(f"{scheme}://" for scheme in BROKERS)):
        raise SettingsError("CELERY_BROKER_URL must begin with redis:// or amqp://, or be memory:// for one machine.")
    return url


def _stripe_key(key: str) -> str:
    if key.startswith("pk_"):
        raise SettingsError("STRIPE_SECRET_KEY holds a publishable key; use the one that begins with sk_ or rk_.")
    if key and not key.startswith(SECRET_KEYS):
        raise SettingsError("STRIPE_SECRET_KEY must begin with sk_test_, sk_live_, rk_test_ or rk_live_.")
    if key.strip() != key or key in SECRET_KEYS:
        raise SettingsError("STRIPE_SECRET_KEY is not a whole key; copy it again, without spaces.")
    return key


def _api_base(url: str) -> str | None:
    if not url or url.rstrip("/") == STRIPE:
        return None
    if not _is_http(url):
        raise SettingsError("STRIPE_API_BASE must be an http:// or https:// address; leave it out for Stripe itself.")
    return url.rstrip("/")


def _webhook_secrets(listed: str) -> dict[str, tuple[str, ...]]:
    """`whsec_…` is of the operator's endpoint (''), `slug:whsec_…` of that agency's own; several while rotating."""
    found: dict[str, tuple[str, ...]] = {}
    for one in (one.strip() for one in listed.split(",") if one.strip()):
        slug, _, secret = one.rpartition(":")
        if not secret.removeprefix("whsec_") or not secret.startswith("whsec_") or one.startswith(":"):
            raise SettingsError(
                "STRIPE_WEBHOOK_SECRET must be one or more signing secrets that begin with whsec_, parted by commas; "
                "that of an agency's own endpoint has its slug before it, like acme:whsec_…."
            )
        found[slug.strip()] = (*found.get(slug.strip(), ()), secret)
    return found


def _networks(listed: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(one.strip()) for one in listed.split(",") if one.strip())
    except ValueError as error:
        raise SettingsError(
            "WEBHOOK_NETWORKS must be networks such as 10.1.0.0/16, parted by commas; leave it out to send webhooks to"
            " public addresses only."
        ) from error


def _public_url(url: str) -> str:
    parts = urlsplit(url)
    if not _is_http(url) or parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise SettingsError(
            "PUBLIC_URL must be the site's own address and no more, such as https://billing.example.com."
        )
    return url.rstrip("/")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, or a broken IPv6 address
        return False


def _smtp(url: str | None) -> str | None:
    if url and not (url.startswith(("smtp://", "smtps://")) and urlsplit(url).hostname):
        raise SettingsError("SMTP_URL must be smtp://host:port or smtps://host:port; leave it out to send no mail.")
    return url or None


def _clock(named: str) -> Literal["system", "sandbox"]:
    if named == "system":
        return "system"
    if named == "sandbox":
        return "sandbox"
    raise SettingsError("CLOCK must be system or sandbox; leave it out for the machine's own time.")


def _in_file(dotenv: Path) -> dict[str, str]:
    """`NAME=value` lines; blank lines, `# remarks`, `export ` and quotes around a value are understood."""
    found: dict[str, str] = {}
    if not dotenv.is_file():
        return found
    for number, line in enumerate(dotenv.read_text("utf-8").splitlines(), 1):
        stripped = line.strip().removeprefix("export ")
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not equals or not name.strip().isidentifier():
            raise SettingsError(f"Line {number} of {dotenv.name} is not NAME=value; correct or remove it.")
        if text := _unquoted(value.strip()):
            found[name.strip()] = text
    return found


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value.partition(" #")[0].rstrip()
