"""What a callback and the options of the zmq transport may look like."""

from __future__ import annotations

import pytest
import zmq
from pydantic import ValidationError

from skyring.errors import ConfigError
from skyring.settings import DeliverySettings, TransportSettings
from skyring.transports import Callback, InvalidRequest
from skyring.transports.registry import load_transports
from skyring_zmq import Zmq
from skyring_zmq.rules import read_target

PUBLIC, SECRET = (key.decode() for key in zmq.curve_keypair())
OTHER = zmq.curve_keypair()[0].decode()


@pytest.mark.parametrize(
    ("uri", "host", "port", "destination"),
    [
        ("tcp://localhost:7000", "localhost", 7000, "zmq:tcp://localhost:7000"),
        ("tcp://Orders.Example:65535", "orders.example", 65535, "zmq:tcp://orders.example:65535"),
        ("tcp://127.0.0.1:07", "127.0.0.1", 7, "zmq:tcp://127.0.0.1:7"),
        ("tcp://[0:0::1]:7000", "::1", 7000, "zmq:tcp://[::1]:7000"),
        ("ipc:///run/orders.sock", "", 0, "zmq:ipc:///run/orders.sock"),
        ("ipc:///a b/ü", "", 0, "zmq:ipc:///a b/ü"),
        ("ipc:///" + "a" * 106, "", 0, "zmq:ipc:///" + "a" * 106),
    ],
)
def test_endpoints(uri: str, host: str, port: int, destination: str) -> None:
    target = read_target(uri)
    assert (target.host, target.port, target.destination) == (host, port, destination)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "tcp",
        "tcp://",
        "tcp://:7000",
        "tcp://host",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://host:*",
        "tcp://host:!",
        "tcp://*:7000",
        "tcp://host:1/",
        "tcp://host:1\n",
        "tcp://user@host:1",
        "tcp://eth0;host:1",
        "tcp://127.0.0.1:0;host:1",
        "tcp://ho st:1",
        "tcp://höst:1",
        "tcp://127.1:1",
        "tcp://0x7f000001:1",
        "tcp://::1:7000",
        "tcp://[]:1",
        "tcp://[::1%lo]:1",
        "TCP://host:1",
        "tcp://" + "a" * 10_000 + ":1",
        "inproc://name",
        "udp://host:1",
        "pgm://host:1",
        "vsock://1:1",
        "ws://host:1",
        "ipc://",
        "ipc:///",
        "ipc://relative",
        "ipc://@abstract",
        "ipc://*",
        "ipc:///a/*",
        "ipc:///a/",
        "ipc:///a\n",
        "ipc:///a\x00b",
        "ipc:///" + "a" * 107,
        "ipc:///" + "ü" * 54,
        "ipc:///\udc80" + "a" * 120,
    ],
)
def test_endpoints_that_are_none(uri: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Zmq().check(Callback("zmq", "push", uri))
    assert caught.value.field == "callback.uri"
    with pytest.raises(InvalidRequest):
        Zmq().destination(Callback("zmq", "push", uri))


@pytest.mark.parametrize("method", ["push", "PUSH", "request", "Request"])
def test_methods(method: str) -> None:
    Zmq().check(Callback("zmq", method, "tcp://a:1"))


@pytest.mark.parametrize("method", ["", "post", "push ", "requeſt", "send", "pub"])
def test_methods_that_are_none(method: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Zmq().check(Callback("zmq", method, "tcp://a:1"))
    assert caught.value.field == "callback.method"


def test_headers_travel_in_the_envelope_only() -> None:
    callback = Callback("zmq", "push", "tcp://a:1", headers={"a": "b"})
    Zmq(Zmq.Options(content="envelope")).check(callback)
    with pytest.raises(InvalidRequest) as caught:
        Zmq().check(callback)
    assert caught.value.field == "callback.headers"


@pytest.mark.parametrize(
    "options",
    [
        {"server_key": "short"},
        {"server_key": PUBLIC, "public_key": PUBLIC},
        {"server_key": PUBLIC, "secret_key": SECRET},
        {"public_key": PUBLIC, "secret_key": SECRET},
        {"sockets_max": 0},
        {"content": "headers"},
        {"unknown": 1},
    ],
)
def test_options_that_are_none(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as caught:
        Zmq.Options.model_validate(options)
    assert SECRET not in str(caught.value.errors(include_input=False))
    settings = TransportSettings.model_validate({"load": ["zmq"], "zmq": options})
    with pytest.raises(ConfigError, match=r"transport\.zmq") as told:
        load_transports(DeliverySettings(), settings)
    assert SECRET not in str(told.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"server_key": '"' * 40}, "server_key: "),
        ({"server_key": OTHER, "public_key": OTHER, "secret_key": SECRET}, "does not belong"),
        ({"server_key": OTHER, "public_key": PUBLIC, "secret_key": '"' * 40}, "does not belong"),
        ({"server_key": OTHER, "public_key": PUBLIC, "secret_key": "x"}, "does not belong"),
    ],
)
async def test_keys_that_are_none(options: dict[str, str], reason: str) -> None:
    transport = Zmq(Zmq.Options.model_validate(options))
    with pytest.raises(ConfigError, match=reason) as caught:
        await transport.open()
    assert SECRET not in str(caught.value)
    await transport.close()


def test_the_secret_is_not_shown() -> None:
    options = Zmq.Options.model_validate(
        {"server_key": OTHER, "public_key": PUBLIC, "secret_key": SECRET}
    )
    assert SECRET not in f"{options!r} {options}"
