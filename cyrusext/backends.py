"""Backends: where the server named in a location is reached, protocol by protocol.

Rule: a server needs no entry.  One without is used by its own name with the default ports; in ``host:port`` the port
is IMAP's (DESIGN 3) and does not count for the other protocols.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

DEFAULT_PORTS: Mapping[str, int] = MappingProxyType({"imap": 143, "pop3": 110, "lmtp": 24, "sieve": 4190, "http": 80})


class Backend(NamedTuple):
    """One `[backends.NAME]` entry; an empty `host` means the name itself."""

    name: str
    host: str = ""
    imap: int = DEFAULT_PORTS["imap"]
    pop3: int = DEFAULT_PORTS["pop3"]
    lmtp: int = DEFAULT_PORTS["lmtp"]
    sieve: int = DEFAULT_PORTS["sieve"]
    http: int = DEFAULT_PORTS["http"]
    weight: float = 1.0
    state: str = "up"
    tls_name: str = ""
    tags: tuple[str, ...] = ()

    def port(self, protocol: str) -> int:
        """Return the port of `protocol`; raises KeyError for a protocol that no backend speaks."""
        return {"imap": self.imap, "pop3": self.pop3, "lmtp": self.lmtp, "sieve": self.sieve, "http": self.http}[
            protocol
        ]


class Backends(Mapping[str, Backend]):
    """The backends of the configuration, by name; answers for servers without an entry too (`endpoint`)."""

    def __init__(self, entries: Mapping[str, Backend] | None = None) -> None:
        self._entries = dict(entries or {})

    def __getitem__(self, name: str) -> Backend:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Backends({', '.join(self._entries)})"

    def endpoint(self, server: str, protocol: str) -> tuple[str, int]:
        """Return host and port at which `server` speaks `protocol`.

        An entry named exactly `server` wins, then one named like its host.  Raises KeyError for an unknown protocol.
        """
        host, port = split_server(server)
        entry = self._entries.get(server) or self._entries.get(host)
        if entry is not None:
            return entry.host or host, entry.port(protocol)
        if protocol == "imap" and port is not None:
            return host, port
        return host, DEFAULT_PORTS[protocol]

    def certificate_name(self, server: str) -> str:
        """Return the name, or the address, that the certificate of `server` must have."""
        host, _ = split_server(server)
        entry = self._entries.get(server) or self._entries.get(host)
        if entry is None:
            return host
        if entry.tls_name:
            return entry.tls_name
        return host if not entry.host or (_is_address(entry.host) and not _is_address(host)) else entry.host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def split_server(server: str) -> tuple[str, int | None]:
    """Split ``host``, ``host:port``, ``[v6]`` or ``[v6]:port`` into the host and IMAP's port (None where absent).

    A bare IPv6 address (more than one colon, no brackets) is a host.
    """
    if server.startswith("["):
        host, _, rest = server[1:].partition("]")
        port = rest.removeprefix(":")
        return host, int(port) if _is_port(port) else None
    host, mark, port = server.rpartition(":")
    if mark and ":" not in host and _is_port(port):
        return host, int(port)
    return server, None


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536
