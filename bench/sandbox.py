"""How many simple calls a second the sandbox answers on one connection, beside a server that only echoes; and how long
it takes when a whole clientele renews in a moment of its clock, beside a clientele of a quarter.

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

from sandbox.stripe import resources
from sandbox.stripe.journal import Journal
from sandbox.stripe.service import Call, Service
from sandbox.stripe.universe import Universe
from sandbox.stripe.wire import Answer

ROOT = Path(__file__).resolve().parent.parent
CALLS = 2_000
SUBSCRIPTIONS = 2_000
NEW_YEAR = 1_577_836_800
A_MONTH = 31 * 86_400 + 7_200


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


def renewals(count: int) -> float:
    """Seconds for so many monthly renewals, with everything that follows from each: invoice, payment, events."""
    with tempfile.TemporaryDirectory() as folder:
        universe = Universe(Journal(Path(folder, "state")))
        service = Service(universe)
        universe.now = NEW_YEAR

        def post(path: str, form: str) -> str:
            answer = service.answer(Call("POST", path, "", {"authorization": "Bearer sk_test_sandbox"}, form))
            assert isinstance(answer, Answer), answer
            assert answer.status == 200, answer.body
            return str(json.loads(answer.body)["id"])

        product = post("/v1/products", "name=Pages")
        price = post("/v1/prices", f"product={product}&currency=usd&unit_amount=3100&recurring[interval]=month")
        customers = []
        for _ in range(20):
            customer = post("/v1/customers", "name=Elm")
            card = post("/v1/payment_methods/pm_card_visa/attach", f"customer={customer}")
            post(f"/v1/customers/{customer}", f"invoice_settings[default_payment_method]={card}")
            customers.append(customer)
        for number in range(count):
            post("/v1/subscriptions", f"customer={customers[number % 20]}&items[0][price]={price}")
        began = time.perf_counter()
        while not universe.advance(NEW_YEAR + A_MONTH):
            pass
        taken = time.perf_counter() - began
        [world] = universe.worlds.values()
        renewed = [row for row in world.each("invoice", status="paid") if row["billing_reason"] == "subscription_cycle"]
        assert len(renewed) == count
    return taken


def main() -> None:
    resources.load()
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
    few, many = renewals(SUBSCRIPTIONS // 4), renewals(SUBSCRIPTIONS)
    print(f"\n{SUBSCRIPTIONS:,} renewals at once (goal: well under ten seconds)")
    print(f"  {many:.1f} s, {many / few:.1f} x the time of a quarter of them")


if __name__ == "__main__":
    main()
