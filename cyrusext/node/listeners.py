"""The sockets that a node listens on, by address.

Rule: they are bound and not listened on, so that clients are refused and not kept waiting until somebody answers; each
is closed, and its path removed, however the node ends.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from cyrusext.errors import ConfigError
from cyrusext.net import address

_PRIVILEGED = 1024


class Listeners:
    """Bound sockets, by the text of their address; a context manager that closes them."""

    def __init__(self) -> None:
        self._bound: dict[str, list[socket.socket]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(tuple(self._bound))

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(self._bound)

    @property
    def sockets(self) -> list[socket.socket]:
        return [sock for sockets in self._bound.values() for sock in sockets]

    def of(self, text: str) -> Sequence[socket.socket]:
        """Return the sockets of one address."""
        return self._bound[text]

    def bind(self, texts: Iterable[str]) -> None:
        """Bind more addresses, all of them or none.  Raises ConfigError, naming the one that can not be had."""
        new: list[str] = []
        try:
            for text in texts:
                if text not in self._bound:
                    self._bound[text] = address.bind(address.parse(text), listen=False)
                    new.append(text)
        except ConfigError as error:
            self.close(new)
            raise _explained(error, address.parse(text)) from error

    def close(self, texts: Iterable[str]) -> None:
        for text in texts:
            for sock in self._bound.pop(text):
                sock.close()
            place = address.parse(text)
            if isinstance(place, address.UnixAddress):
                with contextlib.suppress(OSError):
                    Path(place.path).unlink()

    def names(self) -> str:
        """Return where they listen, with the ports that the system chose."""
        return " ".join(_name_of(sock) for sock in self.sockets)


def _explained(error: ConfigError, place: address.Address) -> ConfigError:
    denied = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EACCES
    if denied and isinstance(place, address.TcpAddress) and 0 < place.port < _PRIVILEGED:
        return ConfigError(f"{error}: a port below {_PRIVILEGED} is bound by root only, at the start")
    return error


def _name_of(sock: socket.socket) -> str:
    name = sock.getsockname()
    return f"unix:{name}" if sock.family == socket.AF_UNIX else str(address.TcpAddress(name[0], name[1]))
