"""Webhooks go to public servers over HTTPS and nowhere else, whatever an address is written like."""

import socket
from typing import Any

import pytest

from billing.errors import BadRequest, Refused
from tests.webhooks.hooks import THIS_MACHINE
from webhooks import addresses


def resolving(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """As if every name meant these machines."""

    def look_up(_host: str, port: int, **_more: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/hooks",
        "https://127.1/hooks",
        "https://0/hooks",
        "https://0x7f000001/hooks",
        "https://2130706433/hooks",
        "https://localhost/hooks",
        "https://10.0.0.1/hooks",
        "https://192.168.1.1/hooks",
        "https://172.16.0.1/hooks",
        "https://100.64.0.1/hooks",
        "https://169.254.169.254/latest/meta-data",
        "https://224.0.0.1/hooks",
        "https://255.255.255.255/hooks",
        "https://[::1]/hooks",
        "https://[::]/hooks",
        "https://[::ffff:10.0.0.1]/hooks",
        "https://[::ffff:a9fe:a9fe]/hooks",
        "https://[::10.0.0.1]/hooks",
        "https://[64:ff9b::10.0.0.1]/hooks",
        "https://[2002:0a00:0001::1]/hooks",
        "https://[fd00:ec2::254]/hooks",
        "https://[fe80::1]/hooks",
    ],
)
def test_no_address_inside_is_called_however_it_is_written(url: str) -> None:
    with pytest.raises(Refused, match="not on the public internet"):
        addresses.target(url, ())


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "This is no web address: write one like"),
        ("hooks", "This is no web address"),
        ("https://", "This is no web address"),
        ("https://example.com:99999/", "This is no web address"),
        ("https://example.com:0/", "This is no web address"),
        ("file:///etc/passwd", "This is no web address"),
        ("gopher://example.com/", "This is no web address"),
        ("https://user:pass@example.com/", "Leave name and password out"),
        ("https://example.com/#part", "Leave out what follows #"),
        ("https://exämple.com/", "xn--"),
        ("https://example.com/a b", "plain characters"),
        ("https://example.com/\r\nHost: inside", "plain characters"),
        ("https://example.com\\@10.0.0.1/", "plain characters"),
        ("https://example.com/" + "a" * 2_000, "at most"),
        ("http://93.184.216.34/hooks", "A webhook goes over HTTPS"),
        ("https://93.184.216.34:22/hooks", "Port 22 is no web server's"),
        ("https://93.184.216.34:25/hooks", "Port 25 is no web server's"),
    ],
)
def test_what_is_no_address_of_a_web_server_is_refused_in_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        addresses.target(url, ())


def test_a_name_is_refused_when_any_of_its_machines_is_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "93.184.216.34", "10.0.0.1")
    with pytest.raises(BadRequest, match=r"hooks\.example is not on the public internet"):
        addresses.target("https://hooks.example/", ())


def test_who_connects_is_given_the_machines_that_were_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "93.184.216.34")
    found = addresses.target("https://hooks.example:8443/a?b=c", ())
    assert (found.https, found.host, found.port, found.path) == (True, "hooks.example", 8443, "/a?b=c")
    assert found.machines == ("93.184.216.34",)


def test_only_networks_that_the_operator_named_are_let_through() -> None:
    found = addresses.target("http://127.0.0.1:80/hooks", THIS_MACHINE)
    assert found.machines == ("127.0.0.1",)
    with pytest.raises(BadRequest):
        addresses.target("http://10.0.0.1/hooks", THIS_MACHINE)


def test_a_name_that_means_nothing_can_be_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    with pytest.raises(Refused, match=r"The name hooks\.example leads nowhere") as refusal:
        addresses.target("https://hooks.example/", ())
    assert refusal.value.status == 503
