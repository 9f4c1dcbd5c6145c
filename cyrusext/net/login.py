"""One client's login, from the mechanism that it names to who it is.

Rule: the exchange is worked on in the login threads and by one of them at a time; it is given back even when the client
leaves in the middle, and never while a thread is at it.  A PLAIN login that was proven before needs no thread at all.
"""

from __future__ import annotations

import threading

from cyrusext.net.login_pool import LoginPool
from cyrusext.net.proven import Proof
from cyrusext.net.sasl import Exchange, LoginRefused, Logins, Proved, Step


class Login:
    """One exchange in progress, with a client at `host`."""

    __slots__ = (
        "_busy",
        "_exchange",
        "_host",
        "_logins",
        "_over",
        "_pool",
        "_proof",
        "_proved",
        "mechanism",
        "remembered",
    )

    def __init__(self, logins: Logins, pool: LoginPool, proved: Proved, host: str) -> None:
        self._logins, self._pool, self._proved, self._host = logins, pool, proved, host
        self._busy = threading.Lock()
        self._exchange: Exchange | None = None
        self._over = False
        self._proof: Proof | None = None
        self.mechanism = ""
        self.remembered = False
        """Nobody was asked: the same login was good before."""

    async def start(self, mechanism: str, initial: bytes | None) -> Step:
        """Begin; raises LoginRefused or LoginUnavailable."""
        self.mechanism = mechanism
        proven = self._logins.proven
        if proven is not None and mechanism == "PLAIN" and initial is not None:
            known = proven.ask(initial)
            if isinstance(known, str):
                self.remembered = True
                return Step(True, b"", known)
            self._proof = known
        return await self._pool.run(lambda: self._in_thread(mechanism, initial), self._host)

    async def step(self, response: bytes) -> Step:
        """Go on with the client's `response`; raises LoginRefused or LoginUnavailable."""
        return await self._pool.run(lambda: self._in_thread(None, response), self._host)

    def granted(self, username: str) -> None:
        """The client has been let in as `username`: its next login need not ask again."""
        if self._proof is not None and self._logins.proven is not None:
            self._logins.proven.remember(self._proof, username)

    def _in_thread(self, mechanism: str | None, data: bytes | None) -> Step:
        try:
            with self._busy:
                if self._over:
                    raise LoginRefused("the client has left")
                if mechanism is not None:
                    self._exchange = self._logins.exchange(self._proved)
                    return self._exchange.start(mechanism, data)
                assert self._exchange is not None
                assert data is not None
                return self._exchange.step(data)
        finally:
            if self._over:
                self.close()

    def close(self) -> None:
        """Give the exchange back: now, or by the thread that is at it."""
        self._over = True
        if self._busy.acquire(blocking=False):
            try:
                if self._exchange is not None:
                    self._exchange.close()
            finally:
                self._busy.release()
