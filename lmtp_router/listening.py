"""The sockets on which mail is taken, by address: each worker has TCP sockets of its own, UNIX ones are shared.

Rule: a socket that listens is not closed while its address is configured, for a connection that waits in it would be
cut; where there are fewer workers than sockets, a worker has several.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from cyrusext.errors import ConfigError
from cyrusext.net import address
from cyrusext.net.address import TcpAddress, UnixAddress
from lmtp_router.doors import Door


class Listening:
    """Bound and listening sockets, held by the parent; a context manager that closes them."""

    def __init__(self) -> None:
        self._bound: dict[str, list[list[socket.socket]]] = {}
        """For each address its sockets, those of one bind together."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(tuple(self._bound))

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._bound)

    @property
    def sockets(self) -> list[socket.socket]:
        return [sock for sets in self._bound.values() for sockets in sets for sock in sockets]

    def names(self) -> list[str]:
        """Return where mail is taken, with the ports that the system chose."""
        return list(dict.fromkeys(_name_of(sock) for sock in self.sockets))

    def of(self, texts: Iterable[str], place: int, workers: int) -> list[socket.socket]:
        """Return the sockets at `texts` of the worker at `place` (from 0) of so many."""
        mine: list[socket.socket] = []
        for text in dict.fromkeys(texts):
            sets = self._bound[text]
            shared = isinstance(address.parse(text), UnixAddress)
            for sockets in sets if shared else sets[place::workers]:
                mine += sockets
        return mine

    def doors(self, sockets: Iterable[socket.socket], doors: Mapping[str, Door]) -> dict[int, Door]:
        """Return by file descriptor which door each of `sockets` is, of `doors` by address."""
        texts = {sock: text for text, sets in self._bound.items() for each in sets for sock in each}
        return {sock.fileno(): doors[texts[sock]] for sock in sockets}

    def bind(self, texts: Iterable[str], workers: int) -> list[str]:
        """Listen at `texts` with enough sockets for so many workers; return the addresses that are new.

        Raises ConfigError where one can not be had, also when another daemon has it with SO_REUSEPORT; then nothing
        has changed but that an address may have more sockets.
        """
        new: list[str] = []
        try:
            for text in dict.fromkeys(texts):
                if text not in self._bound:
                    self._bound[text] = _first(text)
                    new.append(text)
                self._widen(text, workers)
        except ConfigError:
            self.close(new)
            raise
        return new

    def _widen(self, text: str, workers: int) -> None:
        sets = self._bound[text]
        if isinstance(address.parse(text), UnixAddress):
            return
        places = [TcpAddress(*sock.getsockname()[:2]) for sock in sets[0]]
        while len(sets) < workers:
            sets.append(address.bind_all(places, reuse_port=True))

    def close(self, texts: Iterable[str]) -> None:
        """Listen no longer at `texts`; UNIX sockets are removed, where we may."""
        for text in texts:
            for sockets in self._bound.pop(text):
                for sock in sockets:
                    sock.close()
            place = address.parse(text)
            if isinstance(place, UnixAddress):
                with contextlib.suppress(OSError):
                    Path(place.path).unlink()


def _first(text: str) -> list[list[socket.socket]]:
    place = address.parse(text)
    if isinstance(place, UnixAddress):
        return [address.bind(place)]
    # Bound once without SO_REUSEPORT, for two daemons that share a port by accident would share the mail too.
    probes = address.bind(place)
    places = [TcpAddress(*probe.getsockname()[:2]) for probe in probes]
    for probe in probes:
        probe.close()
    return [address.bind_all(places, reuse_port=True)]


def _name_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"unix:{name}" if sock.family == socket.AF_UNIX else str(TcpAddress(name[0], name[1]))
