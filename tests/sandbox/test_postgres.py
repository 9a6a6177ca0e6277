"""The embedded PostgreSQL: shared, taken over, stopped, and nothing changed on the machine around it."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from sandbox import postgres
from sandbox.postgres import ensure_database, start, stop_unused

PROJECT = Path(__file__).resolve().parents[2]
ROOT = os.geteuid() == 0

HOLD = """
import os, sys, time
from pathlib import Path
from sandbox.postgres import start
home, mode, uid = sys.argv[1], sys.argv[2], int(sys.argv[3])
if uid != os.geteuid():  # after the imports, as the interpreter may be where only root can read
    os.setgroups([]), os.setgid(uid), os.setuid(uid)
server = start(Path(home), fsync=False)
print(server.pid, flush=True)
if mode == "hold": time.sleep(60)
server.stop()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder for one server, which is stopped in the end whatever the test did."""
    yield tmp_path / "pg"
    stop_unused(tmp_path / "pg")


def ends(pid: int, within: float = 10.0) -> bool:
    """Whether the process is gone, or only waits for its parent to notice."""
    deadline = time.monotonic() + within
    while True:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)


def holder(home: Path, mode: str = "hold", uid: int = os.geteuid()) -> tuple[subprocess.Popen[str], int]:
    """Another process that starts the server on `home`, and the server's pid."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home), mode, str(uid)], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    if not first.strip():
        process.communicate()
        pytest.fail("the other process could not start the server")
    return process, int(first)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_starts_answers_and_stops(home: Path) -> None:
    with start(home, fsync=False) as server, psycopg.connect(server.admin_url) as connection:
        assert connection.execute("SELECT current_user, current_setting('listen_addresses')").fetchone() == (
            "postgres",
            "",
        )
    assert ends(server.pid)


def test_data_outlives_a_restart(home: Path) -> None:
    with start(home, fsync=False) as server, psycopg.connect(server.admin_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    with start(home) as server, psycopg.connect(server.admin_url) as connection:
        assert connection.execute("SELECT answer, current_setting('fsync') FROM kept").fetchone() == (42, "on")


def test_stops_while_a_client_is_connected(home: Path) -> None:
    server = start(home, fsync=False)
    client = psycopg.connect(server.admin_url)
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 3.0
    assert ends(server.pid, within=0)
    with pytest.raises(psycopg.OperationalError):
        client.execute("SELECT 1")
    client.close()


def test_stop_may_be_called_again(home: Path) -> None:
    server = start(home, fsync=False)
    server.stop()
    server.stop()


def test_many_starts_at_once_share_one_server_and_the_last_stop_ends_it(home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(lambda _: start(home, fsync=False), range(4)))
    assert len({server.pid for server in servers}) == 1
    for server in servers[:-1]:
        server.stop()
    psycopg.connect(servers[-1].admin_url).close()
    servers[-1].stop()
    assert ends(servers[-1].pid, within=0)


def test_processes_share_one_server(home: Path) -> None:
    other, pid = holder(home)
    server = start(home, fsync=False)
    try:
        assert server.pid == pid
        server.stop()
        assert not ends(pid, within=0.2)
    finally:
        end(other)
    assert stop_unused(home)
    assert ends(pid)


def test_whoever_started_it_leaves_it_to_the_others_without_a_word(home: Path) -> None:
    code = HOLD.replace("time.sleep(60)", "sys.stdin.readline()")
    command = [sys.executable, "-X", "dev", "-c", code, str(home), "hold", str(os.geteuid())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    ) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline())
        with start(home, fsync=False) as server:
            assert server.pid == pid
            _, said = starter.communicate("\n", timeout=120)
            assert not ends(pid, within=0)
    assert (starter.returncode, said) == (0, "")


def test_after_a_hard_kill_of_its_starter_the_next_start_takes_the_server_over(home: Path) -> None:
    starter, pid = holder(home)
    end(starter)
    assert not ends(pid, within=0.2)
    with start(home, fsync=False) as server:
        assert server.pid == pid
        psycopg.connect(server.admin_url).close()
    assert ends(pid)


@pytest.mark.parametrize("busy", [False, True])
def test_a_killed_server_recovers_once_its_orphans_have_ended(home: Path, busy: bool) -> None:
    server = start(home)
    with psycopg.connect(server.admin_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    orphan = psycopg.connect(server.admin_url, autocommit=True)
    with ThreadPoolExecutor(1) as pool:
        if busy:
            pool.submit(orphan.execute, "SELECT count(*) FROM generate_series(1, 20000000)")
            time.sleep(0.2)  # the server is to be killed while it counts
        os.kill(server.pid, signal.SIGKILL)
        assert ends(server.pid)
        with start(home) as again, psycopg.connect(again.admin_url) as connection:
            assert again.pid != server.pid
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)
            assert ends(orphan.info.backend_pid, within=0)
    orphan.close()
    server.stop()


def test_a_pid_file_that_names_another_process_is_not_believed(home: Path) -> None:
    server = start(home, fsync=False)
    server.stop()
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        pid_file = home / postgres.MAJOR / "postmaster.pid"
        pid_file.write_text(f"{bystander.pid}\n/elsewhere\n")
        with start(home, fsync=False) as again:
            psycopg.connect(again.admin_url).close()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def killed_initdb(home: Path, after: float) -> bool:
    """Kill -9 an initdb and the process that started it; says whether it was still at work."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home), "once", str(os.geteuid())],
        cwd=PROJECT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    while not list(home.glob("*.new-*/PG_VERSION")):
        assert process.poll() is None
        time.sleep(0.001)
    time.sleep(after)
    at_work = not (home / postgres.MAJOR).exists()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return at_work


@pytest.mark.parametrize("after", [0.0, 0.1])
def test_starts_after_a_killed_initdb(home: Path, after: float) -> None:
    assert killed_initdb(home, after)
    assert list(home.glob("*.new-*/PG_VERSION"))
    with start(home, fsync=False) as server:
        psycopg.connect(server.admin_url).close()
    assert not list(home.glob("*.new-*"))


def test_a_server_that_cannot_start_says_why(home: Path) -> None:
    start(home, fsync=False).stop()
    (home / postgres.MAJOR / "postgresql.conf").write_text("no_such_setting = on\n")
    with pytest.raises(postgres.PostgresError, match="no_such_setting"):
        start(home, fsync=False)


@pytest.mark.parametrize("name", ["a" * 120, "with space, comma & 50%"])
def test_any_path_will_do(tmp_path: Path, name: str) -> None:
    before = set(Path(tempfile.gettempdir()).glob("ob-*"))
    with start(tmp_path / name / "pg", fsync=False) as server:
        urls = ensure_database(server, "outage")
        with psycopg.connect(urls.app) as connection:
            assert connection.execute("SELECT current_user").fetchone() == ("outage_app",)
    assert set(Path(tempfile.gettempdir()).glob("ob-*")) <= before


def test_the_environment_of_another_server_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"PGPORT": "1", "PGDATA": "/nonexistent", "PGHOST": "nowhere", "PGUSER": "nobody"}.items():
        monkeypatch.setenv(name, value)
    with start(home, fsync=False) as server:
        psycopg.connect(server.admin_url).close()


def test_the_owner_owns_and_the_program_may_nothing(home: Path) -> None:
    with start(home, fsync=False) as server:
        urls = ensure_database(server, "outage")
        assert ensure_database(server, "outage") == urls
        with psycopg.connect(urls.owner) as owner:
            owner.execute("CREATE TABLE paid (amount bigint)")
        with psycopg.connect(urls.app) as app:
            powers = app.execute(
                "SELECT rolname, rolcanlogin, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication"
                " FROM pg_roles WHERE rolname LIKE 'outage%' ORDER BY 1"
            ).fetchall()
            assert powers == [
                ("outage_app", True, False, False, False, False, False),
                ("outage_owner", True, False, False, False, False, False),
            ]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute("SELECT * FROM paid")


def test_databases_and_roles_may_be_asked_for_at_once(home: Path) -> None:
    with start(home, fsync=False) as server, ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(lambda _: ensure_database(server, "outage"), range(4)))) == 1


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_runs_as_a_plain_user() -> None:
    wheel = importlib.util.find_spec(postgres.WHEEL)
    assert wheel is not None
    if not all(parent.stat().st_mode & 0o001 for parent in Path(str(wheel.origin)).parents):
        pytest.skip("the packages are installed where only root can read")
    home = Path(tempfile.mkdtemp(prefix="outage-plain-"))  # pytest's own folder is closed to others
    os.chown(home, postgres.NOBODY, postgres.NOBODY)
    try:
        process, pid = holder(home / "pg", uid=postgres.NOBODY)
        try:
            assert Path(f"/proc/{pid}").stat().st_uid == postgres.NOBODY
        finally:
            end(process)
        process, again = holder(home / "pg", "once", uid=postgres.NOBODY)
        process.communicate(timeout=120)
        assert process.returncode == 0
        assert again == pid
        assert ends(pid)
    finally:
        shutil.rmtree(home)


@pytest.mark.skipif(not ROOT, reason="only root hands the server to another account")
def test_as_root_it_runs_as_nobody_below_closed_parents_and_opens_none(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    accounts = Path("/etc/passwd").read_bytes()
    with start(closed / "pg", fsync=False) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == postgres.NOBODY
        cluster = (closed / "pg" / postgres.MAJOR).stat()
        assert (cluster.st_uid, cluster.st_mode & 0o777) == (postgres.NOBODY, 0o700)
    assert (closed.stat().st_uid, closed.stat().st_mode & 0o777) == (0, 0o700)
    assert Path("/etc/passwd").read_bytes() == accounts


@pytest.mark.skipif(not ROOT, reason="only root hands the server to another account")
def test_as_root_binaries_that_nobody_can_reach_are_copied(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(tempfile.mkdtemp(prefix="outage-copy-"))
    place.chmod(0o755)
    run_from = postgres._run_from
    monkeypatch.setattr(postgres, "_run_from", lambda binaries: place in binaries.parents and run_from(binaries))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    try:
        with start(home, fsync=False) as server:
            assert Path(os.readlink(f"/proc/{server.pid}/exe")).is_relative_to(place)
        (copy,) = place.glob("outage-billing-postgres-*")
        modes = {path.stat().st_mode & 0o7777 for path in copy.rglob("*")}
        assert modes <= {0o755, 0o644}
        assert copy.stat().st_uid == 0
    finally:
        shutil.rmtree(place)
