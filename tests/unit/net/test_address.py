"""Addresses of the configuration, and sockets bound to them."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from cyrusext.errors import ConfigError
from cyrusext.net.address import TcpAddress, UnixAddress, bind, bind_all, parse


@pytest.mark.parametrize(
    ("text", "address", "local"),
    [
        ("127.0.0.1:3905", TcpAddress("127.0.0.1", 3905), True),
        ("localhost:1", TcpAddress("localhost", 1), True),
        ("[::1]:3905", TcpAddress("::1", 3905), True),
        ("[fe80::1%eth0]:3905", TcpAddress("fe80::1%eth0", 3905), False),
        ("10.0.0.1:0", TcpAddress("10.0.0.1", 0), False),
        (":3905", TcpAddress("", 3905), False),
        ("unix:/run/x", UnixAddress("/run/x"), True),
        ("/run/x", UnixAddress("/run/x"), True),
    ],
)
def test_an_address_is_parsed_and_knows_who_reaches_it(text: str, address: object, local: bool) -> None:
    parsed = parse(text)
    assert parsed == address
    assert parsed.is_local is local


@pytest.mark.parametrize("address", [TcpAddress("h", 1), TcpAddress("::1", 2), UnixAddress("/a/b")])
def test_the_text_of_an_address_parses_back(address: TcpAddress | UnixAddress) -> None:
    assert parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "host:\u0661",
        "::1:3905",
        "[::1]",
        "[::1:3",
        "[x]:3",
        "[::1]3",
        "a b:3",
        "unix:run/x",
        "unix:" + "/x" * 60,
        "a/b:3",
    ],
)
def test_a_wrong_address_is_a_configuration_error_that_quotes_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert repr(text) in str(caught.value)


def test_a_default_port_is_used_when_none_is_written() -> None:
    assert parse("be1", default_port=24) == TcpAddress("be1", 24)
    assert parse("[::1]", default_port=24) == TcpAddress("::1", 24)


def test_tcp_sockets_listen() -> None:
    (sock,) = bind(TcpAddress("127.0.0.1", 0))
    with sock, socket.create_connection(sock.getsockname(), timeout=5):
        assert sock.getblocking() is False


def test_a_taken_port_is_named_and_nothing_stays_bound() -> None:
    (taken,) = bind(TcpAddress("127.0.0.1", 0))
    (free,) = bind(TcpAddress("127.0.0.1", 0))
    with taken, free:
        port, free_port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        with pytest.raises(ConfigError, match=f"can not listen on 127.0.0.1:{port}: Address already in use"):
            bind_all([TcpAddress("127.0.0.1", free_port), TcpAddress("127.0.0.1", port)])
        bind(TcpAddress("127.0.0.1", free_port))[0].close()


def test_a_unix_socket_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        (sock,) = bind(UnixAddress(str(tmp_path / "s")), mode=0o660)
    finally:
        os.umask(previous)
    with sock:
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o660


def test_a_socket_left_by_a_dead_process_is_replaced(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    bind(address)[0].close()
    (sock,) = bind(address)
    with sock, socket.socket(socket.AF_UNIX) as client:
        client.connect(address.path)


def test_a_served_socket_is_not_replaced(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "s"))
    (sock,) = bind(address)
    with sock:
        with pytest.raises(ConfigError, match="Address already in use"):
            bind(address)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address.path)


def test_a_file_of_that_name_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ConfigError, match="no socket"):
        bind(UnixAddress(str(tmp_path / "s")))
    assert (tmp_path / "s").read_text() == "precious"
