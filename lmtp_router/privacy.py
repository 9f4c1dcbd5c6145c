"""How addresses appear in the log.

Rule: `[log] recipients` is obeyed by every line of the router; a hash is stable, so that lines about one address can
be found without knowing whose they are.
"""

from __future__ import annotations

import enum
import hashlib
import re

from lmtp_router.protocol.types import Reply

_STATUS = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?= |\Z)")


class Disclosure(enum.Enum):
    """`[log] recipients`."""

    FULL = "full"
    HASHED = "hashed"
    OFF = "off"

    def fields(self, sender: bytes, recipient: bytes) -> dict[str, object]:
        """The log fields of a reverse-path and a forward-path."""
        if self is Disclosure.OFF:
            return {}
        if self is Disclosure.HASHED:
            return {"from": _hash(sender), "to": _hash(recipient)}
        return {"from": sender, "to": recipient}

    def reply(self, reply: Reply) -> str:
        """A backend's reply for the log: its words may hold the address, its codes do not."""
        if self is Disclosure.FULL:
            return reply.text
        status = _STATUS.match(reply.lines[-1])
        return f"{reply.code} {status[0].decode()}" if status else str(reply.code)


def _hash(path: bytes) -> str:
    return hashlib.blake2b(path.lower(), digest_size=8).hexdigest() if path != b"<>" else "<>"
