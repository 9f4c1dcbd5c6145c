"""One client's login, from AUTHENTICATE to who it is.

Rule: the exchange is worked on in the login threads and by one of them at a time; it is given back even when the client
leaves in the middle, and never while a thread is at it.
"""

from __future__ import annotations

import threading

from cyrusext.net.sasl import Exchange, LoginPool, LoginRefused, Logins, Proved, Step


class Login:
    """One exchange in progress."""

    def __init__(self, logins: Logins, pool: LoginPool, proved: Proved) -> None:
        self._logins, self._pool, self._proved = logins, pool, proved
        self._busy = threading.Lock()
        self._exchange: Exchange | None = None
        self._over = False
        self.mechanism = ""

    async def start(self, mechanism: str, initial: bytes | None) -> Step:
        """Begin; raises LoginRefused or LoginUnavailable."""
        self.mechanism = mechanism
        return await self._pool.run(lambda: self._in_thread(mechanism, initial))

    async def step(self, response: bytes) -> Step:
        """Go on with the client's `response`; raises LoginRefused or LoginUnavailable."""
        return await self._pool.run(lambda: self._in_thread(None, response))

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
