"""Every account of one sandbox: units of work, the virtual clock, events, and what the state file is told."""

import hashlib
import heapq
import secrets
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Final, TypeVar

from sandbox.stripe import events
from sandbox.stripe.assumptions import Assumptions
from sandbox.stripe.clock import JOBS
from sandbox.stripe.idempotency import Keys
from sandbox.stripe.journal import Journal
from sandbox.stripe.webhooks import Deliveries, Listener, listeners
from sandbox.stripe.world import Row, World

ACCOUNT_LETTERS: Final = 16
HOUR: Final = 3600
DAY: Final = 24 * HOUR
Op = tuple[Any, ...]
T = TypeVar("T")


class Universe:
    """All worlds, changed one unit of work at a time. A unit is one line of the journal, written before the answer."""

    def __init__(self, journal: Journal | None = None, livemode: bool = False) -> None:
        self.livemode = livemode
        self.journal = journal
        self.now = int(time.time())
        self.worlds: dict[str, World] = {}
        self.assume = Assumptions()
        self.keys = Keys(self.assume.keys_live_hours * HOUR)
        self.due: list[tuple[int, int, str, str, dict[str, Any]]] = []
        """Heap of (when, number, account, job, arguments)."""
        self.request: tuple[str | None, str | None] = (None, None)
        """Id and idempotency key of the request being answered; (None, None) when Stripe acts by itself."""
        self.deliveries: Deliveries | None = None
        """Told of each event after its unit has ended well."""
        self._salt = secrets.token_hex(8)
        self._boot = 0
        self._tokens = 0
        self._jobs = 0
        self._undo: list[Callable[[], None]] = []
        self._ops: list[Op] = []
        self._new_events: list[tuple[World, Row, list[Listener]]] = []
        self._running = False
        if journal is not None:
            for line in journal.read():
                self._replay(line)
            self._boot += 1
            journal.compact(self._whole())

    # --- identity -------------------------------------------------------------------------------------------------

    def token(self, length: int) -> str:
        """Letters and digits never given out before by this sandbox, restarts included."""
        self._tokens += 1
        digest = hashlib.sha256(f"{self._salt}|{self._boot}|{self._tokens}".encode()).digest()
        return b64encode(digest, b"Zz").decode()[:length]

    def account_of(self, key_name: str) -> str:
        """The account that an API key opens: the same for the same key in every sandbox."""
        digest = hashlib.sha256(b"account|" + key_name.encode()).digest()
        return "acct_" + b64encode(digest, b"Zz").decode()[:ACCOUNT_LETTERS]

    def world(self, account: str) -> World:
        """The world of an own account, made when its key is first used."""
        found = self.worlds.get(account)
        return found if found is not None else self.perform(lambda: self.open_world(account, None))

    def open_world(self, account: str, platform: str | None) -> World:
        """Make an account's world inside the present unit of work."""
        world = self.worlds[account] = World(self, account, platform, self.livemode)
        self.did(lambda: self.worlds.pop(account), ("world", account, platform))
        return world

    def disconnect(self, account: str) -> None:
        """Cut an account off its platform inside the present unit of work; what is in it stays."""
        world = self.worlds[account]
        before, world.platform = world.platform, None
        self.did(lambda: setattr(world, "platform", before), ("cut", account))

    # --- units of work --------------------------------------------------------------------------------------------

    def perform(self, work: Callable[[], T]) -> T:
        """Run one unit of work: all of it, or nothing. Written to the state file before this returns; events follow."""
        assert not self._running, "units of work do not nest"
        self._running = True
        try:
            done = work()
        except BaseException:
            self._roll_back()
            raise
        else:
            self._commit()
            return done
        finally:
            self._running = False
            self._publish()

    def did(self, undo: Callable[[], Any], op: Op) -> None:
        """Note a change of the present unit: how to take it back, and what the state file says about it."""
        assert self._running, "nothing changes outside a unit of work"
        self._undo.append(undo)
        self._ops.append(op)

    def _roll_back(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self._ops.clear()
        self._new_events.clear()

    def _commit(self) -> None:
        self._undo.clear()
        if self._ops and self.journal is not None:
            self.journal.write({"now": self.now, "tokens": self._tokens, "ops": self._ops})
        self._ops.clear()

    def _publish(self) -> None:
        announced, self._new_events = self._new_events, []
        if self.deliveries is not None:
            for world, event, heard_by in announced:
                self.deliveries.announce(world, event, heard_by)

    # --- events ---------------------------------------------------------------------------------------------------

    def emit(self, world: World, type: str, obj: Row, previous: Row | None) -> None:
        heard_by = listeners(world, type)
        fields = {
            "id": world.new_id("evt"), "type": type, "previous": previous, "request": list(self.request),
            "pending": len(heard_by),
        }  # fmt: skip
        event = events.made(world, obj, fields)
        table = world.table("event")
        table.add(event)
        # The state file names the object only: read back in order, it looks then as it does now.
        self.did(table.take_back, ("emit", world.account, obj["object"], obj["id"], fields))
        self._new_events.append((world, event, heard_by))

    # --- the clock ------------------------------------------------------------------------------------------------

    def schedule(self, when: int, account: str, job: str, args: dict[str, Any]) -> None:
        if job not in JOBS:
            raise KeyError(f"No due job is called {job}")
        self._jobs += 1
        entry = (when, self._jobs, account, job, args)
        heapq.heappush(self.due, entry)
        self.did(lambda: self._unschedule(entry), ("at", *entry))

    def _unschedule(self, entry: tuple[int, int, str, str, dict[str, Any]]) -> None:
        self.due.remove(entry)
        heapq.heapify(self.due)

    def advance(self, until: int, patience: float = 0.05) -> bool:
        """Run what is due up to a virtual time, in due order, for about `patience` seconds of real time.

        Says whether that time was reached; if not, call again. A job that fails by a bug raises, and stays due."""
        stop = time.monotonic() + patience
        while self.due and self.due[0][0] <= until:
            self._run_next()
            if time.monotonic() > stop:
                return False
        if until != self.now:
            self.perform(lambda: self._set_now(until))
        return True

    def _run_next(self) -> None:
        entry = self.due[0]
        when, number, account, job, args = entry

        def run() -> None:
            if when > self.now:
                self._set_now(when)
            heapq.heappop(self.due)
            self.did(lambda: heapq.heappush(self.due, entry), ("ran", number))
            JOBS[job](self.worlds[account], **args)

        self.request = (None, None)
        self.perform(run)

    def _set_now(self, now: int) -> None:
        before = self.now
        self.now = now
        self.did(lambda: setattr(self, "now", before), ("now", now))
        if before // DAY != now // DAY:
            self._prune(now)
            self.did(lambda: None, ("prune", now))

    def _prune(self, now: int) -> None:
        """Forget what has outlived its time. Needs no taking back: nobody could see it any more."""
        self.keys.prune(now)
        for world in self.worlds.values():
            world.table("event").forget_before(now - events.KEPT)

    def may_go_back(self) -> bool:
        """Only a sandbox in which nothing was bought or sold yet may be set to an earlier time."""
        tables = [table for world in self.worlds.values() for table in world.tables.values() if table.position]
        return not self.due and all(table.name in ("account", "webhook_endpoint") for table in tables)

    def set_now(self, now: int) -> None:
        """Set an empty sandbox back."""
        self.perform(lambda: self._set_now(now))

    def reset(self, now: int, assume: Assumptions) -> None:
        """Drop everything; ids will not repeat those of before."""
        self._suppose(assume)
        self.worlds.clear()
        self.due.clear()
        self.now = now
        self._salt = secrets.token_hex(8)
        if self.deliveries is not None:
            self.deliveries.forget()
        if self.journal is not None:
            self.journal.compact(self._whole())

    def _suppose(self, assume: Assumptions) -> None:
        self.assume = assume
        self.keys = Keys(assume.keys_live_hours * HOUR)

    # --- the state file -------------------------------------------------------------------------------------------

    def _whole(self) -> dict[str, Any]:
        """Everything as one unit: what the compacted state file begins with."""
        ops: list[Op] = [
            ("born", self._salt, self._boot, self._jobs), ("suppose", self.assume.as_fields())
        ]  # fmt: skip
        for world in self.worlds.values():
            ops.append(("world", world.account, world.platform))
        for world in self.worlds.values():
            for table in world.tables.values():
                ops += [("add", world.account, row) for row in table.rows if row is not None]
                ops += [("gone", world.account, table.name, id) for id in table.removed]
        ops += [("at", *entry) for entry in self.due]
        ops += [("key", *kept) for kept in self.keys.all()]
        return {"now": self.now, "tokens": self._tokens, "ops": ops}

    def _replay(self, line: dict[str, Any]) -> None:
        self.now = line["now"]
        self._tokens = line["tokens"]
        for kind, *rest in line["ops"]:
            getattr(self, f"_replay_{kind}")(*rest)

    def _replay_born(self, salt: str, boot: int, jobs: int) -> None:
        self._salt, self._boot, self._jobs = salt, boot, jobs

    def _replay_suppose(self, assume: dict[str, Any]) -> None:
        self._suppose(Assumptions(**assume))

    def _replay_world(self, account: str, platform: str | None) -> None:
        self.worlds[account] = World(self, account, platform, self.livemode)

    def _replay_cut(self, account: str) -> None:
        self.worlds[account].platform = None

    def _replay_add(self, account: str, row: Row) -> None:
        world = self.worlds[account]
        world.table(row["object"]).add(row)
        world.kind[row["id"]] = row["object"]

    def _replay_set(self, account: str, table: str, id: str, fields: Row) -> None:
        held = self.worlds[account].table(table)
        row = held.rows[held.position[id]]
        assert row is not None
        held.update(row, fields)

    def _replay_del(self, account: str, table: str, id: str) -> None:
        self.worlds[account].table(table).remove(id)

    def _replay_gone(self, account: str, table: str, id: str) -> None:
        self.worlds[account].table(table).removed.add(id)

    def _replay_emit(self, account: str, table: str, id: str, fields: dict[str, Any]) -> None:
        world = self.worlds[account]
        obj = world.get(table, id)
        if obj is not None:
            world.table("event").add(events.made(world, obj, fields))

    def _replay_at(self, when: int, number: int, account: str, job: str, args: dict[str, Any]) -> None:
        self._jobs = max(self._jobs, number)
        heapq.heappush(self.due, (when, number, account, job, args))

    def _replay_ran(self, number: int) -> None:
        self.due = [entry for entry in self.due if entry[1] != number]
        heapq.heapify(self.due)

    def _replay_now(self, now: int) -> None:
        self.now = now

    def _replay_prune(self, now: int) -> None:
        self._prune(now)

    def _replay_key(self, account: str, key: str, kept: dict[str, Any]) -> None:
        self.keys.put_back(account, key, kept)
