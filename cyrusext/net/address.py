"""Addresses as the configuration writes them, and sockets bound to them.

Rule: an address is parsed once, at start, and a wrong one is a ConfigError that says what was expected; a UNIX socket
left by a dead process is replaced, one that somebody serves is not.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cyrusext.errors import ConfigError


class TcpAddress(NamedTuple):
    """``host:port``, ``[v6]:port`` or ``:port`` (all addresses of this machine); port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Nobody but this machine can reach it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False


class UnixAddress(NamedTuple):
    """``unix:/path`` or ``/path``."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"

    @property
    def is_local(self) -> bool:
        return True


Address = TcpAddress | UnixAddress

_EXPECTED = 'expected "host:port", "[v6 address]:port" or "unix:/path"'


def parse(text: str, *, default_port: int | None = None) -> Address:
    """Return the address written as `text`.

    Raises ConfigError where it is of no known form, a port is missing (and there is no `default_port`) or over 65535,
    or a UNIX path is relative or longer than the 107 bytes that sun_path holds.
    """
    if text.startswith(("unix:", "/")):
        path = text.removeprefix("unix:")
        if not path.startswith("/"):
            raise ConfigError(f"{text!r}: the path of a UNIX socket must be absolute")
        if len(os.fsencode(path)) > 107:
            raise ConfigError(f"{text!r}: the path of a UNIX socket has at most 107 bytes")
        return UnixAddress(path)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(f"{text!r}: {_EXPECTED}")
        port_text = rest[1:]
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError:
            raise ConfigError(f"{text!r}: no IPv6 address between the brackets; {_EXPECTED}") from None
    else:
        host, _, port_text = text.partition(":")
        if ":" in port_text or any(c.isspace() or c == "/" for c in host):
            raise ConfigError(f"{text!r}: {_EXPECTED}")
    if not port_text:
        if default_port is None or not host:
            raise ConfigError(f"{text!r}: no port; {_EXPECTED}")
        return TcpAddress(host, default_port)
    if not (port_text.isascii() and port_text.isdigit() and int(port_text) <= 65535):
        raise ConfigError(f"{text!r}: {port_text!r} is no port; {_EXPECTED}")
    return TcpAddress(host, int(port_text))


def bind(
    address: Address, *, backlog: int = 1024, reuse_port: bool = False, mode: int = 0o660, listen: bool = True
) -> list[socket.socket]:
    """Return listening, non-blocking sockets for `address`: one for each address that its host name has.

    `mode` is that of a UNIX socket; with `listen` false the sockets are bound only.  Raises ConfigError, naming the
    address and the reason, when it can not be had.
    """
    sockets: list[socket.socket] = []
    try:
        for family, sockaddr in _targets(address):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setblocking(False)
            if isinstance(address, UnixAddress):
                _replace_stale(address.path)
                # The mode must be right from the first moment on, so the mask does it and not a later chmod.
                previous = os.umask(0o777 & ~mode)
                try:
                    sock.bind(sockaddr)
                finally:
                    os.umask(previous)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if reuse_port:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(sockaddr)
            if listen:
                sock.listen(backlog)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ConfigError(f"can not listen on {address}: {error.strerror or error}") from error
    return sockets


def _targets(address: Address) -> Iterator[tuple[int, Any]]:
    if isinstance(address, UnixAddress):
        yield socket.AF_UNIX, address.path
        return
    host = None if address.host in ("", "*") else address.host
    seen = set()
    for family, _, _, _, sockaddr in socket.getaddrinfo(
        host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        if family in (socket.AF_INET, socket.AF_INET6) and sockaddr not in seen:
            seen.add(sockaddr)
            yield family, sockaddr


def _replace_stale(path: str) -> None:
    """Remove the socket at `path` when nobody serves it any more."""
    try:
        if not stat.S_ISSOCK(Path(path).lstat().st_mode):
            raise OSError(errno.EEXIST, "something that is no socket has this name")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code == errno.ECONNREFUSED:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
    else:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def bind_all(
    addresses: Sequence[Address], *, backlog: int = 1024, reuse_port: bool = False, listen: bool = True
) -> list[socket.socket]:
    """Return the sockets of all `addresses`; when one can not be bound, none stays bound.  Raises ConfigError."""
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            sockets += bind(address, backlog=backlog, reuse_port=reuse_port, listen=listen)
    except ConfigError:
        for sock in sockets:
            sock.close()
        raise
    return sockets
