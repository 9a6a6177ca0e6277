"""The sandbox over HTTP/1.1: one thread, keep-alive, every answer in one write."""

import asyncio
import gc
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from sandbox import seeds
from sandbox.stripe import resources
from sandbox.stripe.controls import Going
from sandbox.stripe.detours import Detour
from sandbox.stripe.journal import Journal
from sandbox.stripe.service import Call, Service
from sandbox.stripe.universe import Universe
from sandbox.stripe.webhooks import Deliveries
from sandbox.stripe.wire import Answer, encode

LARGEST: Final = 4 << 20
READY: Final = "sandbox ready on {}"
"""What it prints when it answers, with its address."""
SEEDED_NOT: Final = "It goes on with what it held: a seed fills a new one. To begin anew, remove {}."
_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class _Connection(asyncio.Protocol):
    """A body that is shorter than its Content-Length has no effect: nothing is done before the request is whole."""

    def __init__(self, service: Service, open_ones: "set[_Connection]") -> None:
        self.service = service
        self.open_ones = open_ones
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.busy: asyncio.Task[None] | None = None
        self.detour: Detour | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.open_ones.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.detour is not None and self.detour.executed and self.busy is not None:
            self.busy.cancel()  # nobody is left to keep waiting
        self.open_ones.discard(self)

    def close(self) -> None:
        if self.busy is not None:
            self.busy.cancel()
        if self.transport is not None:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self._answer_what_is_whole()

    def _answer_what_is_whole(self) -> None:
        while self.busy is None and self.transport is not None and self.buffer:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self.buffer) > LARGEST:
                    self._refuse(431, "The request's header is too large.")
                return
            try:
                method, target, headers = _head(bytes(self.buffer[:end]))
                length = int(headers.get("content-length", "0"))
            except ValueError:
                self._refuse(400, "This is not an HTTP/1.1 request.")
                return
            if "transfer-encoding" in headers or not 0 <= length <= LARGEST:
                self._refuse(411, "Send the body with a Content-Length of at most 4 MiB.")
                return
            if headers.get("expect", "").lower() == "100-continue" and len(self.buffer) == end + 4 and length:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            whole = end + 4 + length
            if len(self.buffer) < whole:
                return
            body = bytes(self.buffer[end + 4 : whole])
            del self.buffer[:whole]
            path, _, query = target.partition("?")
            call = Call(method, unquote(path), query, headers, body.decode("utf-8", "replace"))
            self._answer(call, headers.get("connection", "").lower() != "close")

    def _answer(self, call: Call, stay: bool) -> None:
        done = (self.service.control if call.path.startswith("/_sandbox") else self.service.answer)(call)
        if isinstance(done, Answer):
            self._write(done, stay)
        elif isinstance(done, Detour):
            self.detour = done
            # The detour holds its task: its effect must land even after this connection has gone.
            self.busy = done.task = asyncio.get_running_loop().create_task(self._go(done, stay))
        else:
            self.busy = asyncio.get_running_loop().create_task(self._step(done, stay))

    async def _go(self, detour: Detour, stay: bool) -> None:
        try:
            if detour.leaves:
                self._hang_up(detour)
            answer = await detour.run()
            if detour.ends == "drip" and answer is not None:
                for byte in _message(answer, stay):
                    if self.transport is None:
                        break
                    self.transport.write(bytes([byte]))
                    await asyncio.sleep(detour.pace)
        except asyncio.CancelledError:
            self._hang_up(detour)
            raise
        finally:
            self.service.under_way.end(detour)
            self.detour = None
        self.busy = None
        if detour.ends == "answer" and answer is not None:
            self._write(answer, stay)
        elif detour.ends != "drip":
            self._hang_up(detour)
        self._answer_what_is_whole()

    def _hang_up(self, detour: Detour) -> None:
        """Without an answer: closed as after a time-out, or reset at once."""
        if self.transport is None:
            return
        if detour.ends == "close":
            self.transport.close()
            return
        # Lingering for no time makes the kernel send a reset instead of an orderly end.
        wire = self.transport.get_extra_info("socket")
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    async def _step(self, going: Going, stay: bool) -> None:
        """Time passes in slices: other connections are answered between them."""
        while (document := going.step()) is None:
            await asyncio.sleep(0)
        self.busy = None
        status = 500 if "error" in document else 200
        self._write(Answer(status, encode(document)), stay)
        self._answer_what_is_whole()

    def _write(self, answer: Answer, stay: bool) -> None:
        if self.transport is None:
            return
        self.transport.write(_message(answer, stay))
        if not stay:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        self._write(Answer(status, encode({"error": {"type": "invalid_request_error", "message": message}})), False)


def _message(answer: Answer, stay: bool) -> bytes:
    headers = {"Content-Type": "application/json", **answer.headers, "Content-Length": str(len(answer.body))}
    head = [f"HTTP/1.1 {answer.status} {_REASONS.get(answer.status, 'Unknown')}"]
    head += [f"{name}: {value}" for name, value in headers.items()]
    head += [] if stay else ["Connection: close"]
    return "\r\n".join(head).encode("latin-1", "replace") + b"\r\n\r\n" + answer.body


def _head(head: bytes) -> tuple[str, str, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise ValueError(line)
        headers[name.lower()] = value.strip()
    return method, target, headers


@dataclass
class Handle:
    """A sandbox that runs in a thread of this process."""

    url: str
    service: Service
    _loop: asyncio.AbstractEventLoop
    _ended: asyncio.Event
    _thread: threading.Thread

    def stop(self) -> None:
        """End it and wait for that. Safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()


def start_in_thread(
    seed: str = "empty", state_file: Path | None = None, port: int = 0, host: str = "127.0.0.1", livemode: bool = False
) -> Handle:
    """Start a sandbox on a free port (or `port`) and return when it answers."""
    started = threading.Event()
    made: list[Any] = []

    async def main() -> None:
        ended = asyncio.Event()

        def tell(url: str, service: Service) -> None:
            made.extend([url, service, asyncio.get_running_loop(), ended])
            started.set()

        await _serve(port, seed, state_file, host, livemode, ended, tell)

    def run_thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            made[:] = [error]
            started.set()
            raise

    thread = threading.Thread(target=run_thread, name="stripe-sandbox", daemon=True)
    thread.start()
    started.wait()
    if len(made) == 1:
        raise made[0]
    url, service, loop, ended = made
    return Handle(url, service, loop, ended, thread)


def run(
    port: int = 12111,
    seed: str = "empty",
    state_file: Path | None = None,
    host: str = "127.0.0.1",
    livemode: bool = False,
    ready: Callable[[str], str] = READY.format,
) -> None:
    """Serve until SIGINT or SIGTERM. Prints one line, `sandbox ready on http://…`, when it answers and holds its seed.

    `ready` makes that line out of its address.

    Raises `ValueError` for a seed that is none.
    """
    seeds.checked(seed)
    # Long-lived rows are no garbage: looking through them again and again is what makes a big sandbox slow.
    gc.set_threshold(100_000, 20, 100)

    async def main() -> None:
        ended = asyncio.Event()
        for name in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(name, ended.set)
        await _serve(port, seed, state_file, host, livemode, ended, lambda url, _: print(ready(url), flush=True))

    asyncio.run(main())


async def _serve(
    port: int, seed: str, state_file: Path | None, host: str, livemode: bool, ended: asyncio.Event, tell: Any
) -> None:
    resources.load()
    universe = Universe(Journal(state_file) if state_file else None, livemode)
    service = Service(universe)
    loop = asyncio.get_running_loop()
    deliveries = Deliveries(universe, loop)
    connections: set[_Connection] = set()
    server = await loop.create_server(lambda: _Connection(service, connections), host, port)
    url = f"http://{host}:{server.sockets[0].getsockname()[1]}"
    try:
        if seed != "empty" and universe.worlds:
            print(SEEDED_NOT.format(state_file), file=sys.stderr, flush=True)
        if seed == "empty" or universe.worlds:
            tell(url, service)
        else:
            seeds.sow(url, seed, lambda: loop.call_soon_threadsafe(tell, url, service))
        await ended.wait()
    finally:
        server.close()
        deliveries.close()
        service.under_way.forget()
        for connection in list(connections):
            connection.close()
        # One turn of the loop, in which the aborted connections are closed.
        await asyncio.sleep(0)
        if universe.journal is not None:
            universe.journal.close()
