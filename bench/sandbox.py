"""How many simple calls a second the sandbox answers on one connection, beside a server that only echoes.

The echo is the same transport with nothing behind it: what is left between the two is the sandbox's own work.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CALLS = 2_000


class Wire:
    """One keep-alive connection, and nothing that a client library would add."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, method: str, path: str, form: str = "") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk_test_sandbox\r\n"
        self._socket.sendall(f"{head}Content-Length: {len(form)}\r\n\r\n{form}".encode())
        read = b""
        while b"\r\n\r\n" not in read:
            read += self._socket.recv(65536)
        answered, _, body = read.partition(b"\r\n\r\n")
        length = int(answered.split(b"Content-Length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(65536)
        assert answered.startswith(b"HTTP/1.1 200"), body
        return body

    def close(self) -> None:
        self._socket.close()


class Echo(asyncio.Protocol):
    """Answers every request with the same few bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


def rate(call: Callable[[int], object]) -> float:
    """Calls a second: the best of three runs, for the machine may be busy with other things."""
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        for number in range(CALLS):
            call(number)
        best = max(best, CALLS / (time.perf_counter() - start))
    return best


def echo_rate() -> float:
    ports: list[int] = []
    up = threading.Event()
    loop = asyncio.new_event_loop()

    def serve() -> None:
        server = loop.run_until_complete(loop.create_server(Echo, "127.0.0.1", 0))
        ports.append(server.sockets[0].getsockname()[1])
        up.set()
        loop.run_forever()
        server.close()
        loop.run_until_complete(server.wait_closed())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    up.wait(10)
    wire = Wire(ports[0])
    found = rate(lambda _: wire.call("GET", "/"))
    wire.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sandbox.stripe", "--port", "0", "--state", f"{folder}/state"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            wire = Wire(int(process.stdout.readline().rsplit(":", 1)[1]))
            customer = json.loads(wire.call("POST", "/v1/customers", "name=Elm"))["id"]
            here = f"/v1/customers/{customer}"
            rates = {
                "read a customer": rate(lambda _: wire.call("GET", here)),
                "create a customer": rate(lambda n: wire.call("POST", "/v1/customers", f"name=Elm&metadata[n]={n}")),
                "change a customer": rate(lambda n: wire.call("POST", here, f"metadata[n]={n}")),
            }
            wire.close()
            process.terminate()
    bare = echo_rate()
    print("\nThe sandbox, one connection (goal: at least 1,000 simple calls a second)")
    for name, found in rates.items():
        print(f"  {name:<18} {found:8,.0f} a second   {bare / found:5.1f} x the time of an echo ({bare:,.0f} a second)")


if __name__ == "__main__":
    main()
