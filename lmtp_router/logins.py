"""Logins of clients: asked of those who know the passwords, in threads, and slowed when they fail.

Rule: no password is looked at on the event loop, but for one that was proven before (`cyrusext.net.proven`); what a
client is told of a login that failed is the same whatever the reason, and comes no sooner than `FAILED_S` later.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from cyrusext.net.login import Login
from cyrusext.net.login_pool import LoginPool
from cyrusext.net.logins import Passwords, logins_of
from cyrusext.net.sasl import NOTHING_PROVED, LoginRefused, LoginUnavailable
from cyrusext.runtime import logging
from cyrusext.runtime.log_limit import PeerLog
from cyrusext.wire.sasl import Secret
from lmtp_router.protocol.types import Reply, reply
from lmtp_router.tally import Tally

FAILED_S = 1.0
"""How long a login that failed waits for its reply."""
MAX_FAILED = 5
"""Logins of one session that may fail; with this one it ends."""

GOOD = reply(235, "2.7.0 Authentication successful")
BAD = reply(535, "5.7.8 Authentication credentials invalid")
NOT_NOW = reply(454, "4.7.0 Temporary authentication failure")
TOO_MANY = reply(421, "4.7.0 Too many failed logins, closing connection")
MECHANISM = "PLAIN"
SERVICE = "lmtp"
"""Our name in SASL."""

log = logging.get()


class ClientLogins(NamedTuple):
    """Where clients' passwords are checked, and which `users` may log in; none named: all that have one."""

    passwords: Passwords
    users: frozenset[str] = frozenset()


class Checked(NamedTuple):
    """What came of a login: the `reply`, and who it is; empty when it failed."""

    reply: Reply
    user: str = ""


class LoginDesk:
    """Checks the logins of one worker's clients."""

    def __init__(self, settings: ClientLogins, hostname: str, tally: Tally) -> None:
        """Open what knows the passwords.  Raises ConfigError."""
        self._logins = logins_of(settings.passwords, SERVICE, hostname)
        self._users = settings.users
        self._pool = LoginPool()
        self._tally = tally
        self._peer_log = PeerLog(log)

    async def check(self, message: Secret, *, session: str, peer: str, secure: bool, failed: int) -> Checked:
        """Return what came of PLAIN's `message` (RFC 4616 section 2), of a client with so many `failed` before it."""
        login = Login(self._logins, self._pool, NOTHING_PROVED, peer.rpartition(":")[0] or peer)
        try:
            step = await login.start(MECHANISM, message.reveal())
            if not step.done:
                raise LoginRefused("PLAIN goes on for longer than one message")
            if self._users and step.username not in self._users:
                raise LoginRefused(f"{step.username!r} is not in auth_users")
            if not step.username.isprintable():
                raise LoginRefused("a name that can not be printed")
            login.granted(step.username)
        except LoginRefused as error:
            return await self._failed("refused", str(error), session, peer, failed)
        except LoginUnavailable as error:
            return await self._failed("unavailable", str(error), session, peer, failed)
        finally:
            login.close()
        self._count("good")
        log.info("lmtp.login", session=session, peer=peer, user=step.username, mechanism=MECHANISM, tls=secure)
        return Checked(GOOD, step.username)

    async def _failed(self, result: str, reason: str, session: str, peer: str, failed: int) -> Checked:
        self._count(result)
        self._peer_log.warning("lmtp.login_failed", peer=peer, session=session, reason=reason, failures=failed + 1)
        await asyncio.sleep(FAILED_S)
        if failed + 1 >= MAX_FAILED:
            return Checked(TOO_MANY)
        return Checked(BAD if result == "refused" else NOT_NOW)

    def _count(self, result: str) -> None:
        self._tally.logins[result] = self._tally.logins.get(result, 0) + 1

    def close(self) -> None:
        """Begin no further login."""
        self._pool.close()
        self._peer_log.tell()
