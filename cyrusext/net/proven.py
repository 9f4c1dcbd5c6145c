"""PLAIN logins that were found good, remembered for as long as the file with the passwords is the very same.

Rule: only a yes is remembered, and only of a file that was at rest, so that any change shows in its stamp.  Where the
stamp differs nothing is known, and whoever keeps the passwords is asked.  No password is kept, but a keyed digest, by
a key that is never written anywhere.  Why: docs/decisions/proven-logins.md.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import NamedTuple

from cyrusext.net.stamp import Stamp, stamp_of

LIMIT = 64
"""Logins remembered; the longest known is forgotten for a new one."""


class Proof(NamedTuple):
    """A login that is being looked at: its digest, and the passwords' stamp from before anybody was asked."""

    digest: bytes
    stamp: Stamp


class Proven:
    """The good logins of the file of passwords at `path`.

    Its stamp is all that is looked at on the event loop, so the file belongs on a local disk (docs/security.md).
    """

    def __init__(self, path: Path | str) -> None:
        self._path = str(path)
        self._key = secrets.token_bytes(32)
        self._stamp: Stamp | None = None
        self._users: dict[bytes, str] = {}

    def __len__(self) -> int:
        return len(self._users)

    def ask(self, message: bytes) -> str | Proof | None:
        """Return who sent this PLAIN message (RFC 4616 section 2) if that is known, else what `remember` needs.

        None: the file can not be looked at, and nothing can be remembered.
        """
        stamp = stamp_of(self._path)
        if stamp != self._stamp:
            self._users.clear()
            self._stamp = stamp
        if stamp is None:
            return None
        # Nobody can predict the digest of what he sends, so how long the search takes tells him nothing.
        digest = hashlib.blake2b(message, key=self._key, digest_size=32).digest()
        return self._users.get(digest) or Proof(digest, stamp)

    def remember(self, proof: Proof, user: str, now_ns: int | None = None) -> None:
        """Know from now on that the message of `proof` is `user`'s, unless the file has changed or may be changing.

        `now_ns` is the time (None: now) by the clock of the file's stamps, in nanoseconds since 1970.
        """
        if not proof.stamp.at_rest(now_ns) or proof.stamp != self._stamp or proof.stamp != stamp_of(self._path):
            return
        if len(self._users) >= LIMIT:
            del self._users[next(iter(self._users))]
        self._users[proof.digest] = user
