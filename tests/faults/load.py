"""What goes on in a murder on a working day: mailboxes come and go on both backends, and mail is delivered.

Rule: each kind of load keeps its own account of what was acknowledged, says again what was refused for now, and stops
at the first answer that nobody may give: a 550 for somebody who exists.
"""

from __future__ import annotations

import imaplib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

from tests.faults.rig import Rig
from tests.harness import imap
from tests.harness.cyrus import CyrusBackend
from tests.harness.lmtp import Lmtp, message
from tests.harness.waiting import wait_until

AGAIN_S = 0.05
"""The pause before something is said again."""
PATIENCE_S = 60.0


class Load(threading.Thread):
    """One stream of work, from entering the context to leaving it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.count = 0
        """What was acknowledged."""
        self._ending = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self._ending.is_set():
                    return
                self.step(number)
        except BaseException as error:  # noqa: BLE001 - shown on the test's thread
            self._failure = error

    def step(self, number: int) -> None:
        raise NotImplementedError

    def goes_on(self, more: int = 5) -> None:
        """Wait until so many more have been acknowledged."""
        wanted = self.count + more
        wait_until(lambda: self.count >= wanted or not self.is_alive(), f"{self.name} goes on", PATIENCE_S)
        self.check()

    def check(self) -> None:
        if self._failure is not None:
            raise AssertionError(f"{self.name} failed") from self._failure

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self.join(2 * PATIENCE_S)
        assert not self.is_alive(), f"{self.name} hangs"
        self.check()


class Changes(Load):
    """Users with a folder that is renamed and sometimes deleted, on one backend.  A refusal is followed up."""

    def __init__(self, rig: Rig, backend: CyrusBackend) -> None:
        super().__init__()
        self.name = f"changes on {backend.name}"
        self._rig, self._backend = rig, backend
        self.expected: dict[str, set[str]] = {}
        """User -> the mailboxes that there must be."""

    def step(self, number: int) -> None:
        user = self._rig.user(f"load{self._backend.name[2]}x")
        inbox, old, new = (f"user.{user}{folder}" for folder in ("", ".work", ".job"))
        there = self.expected[user] = set()
        self._until(there, add=inbox)
        self._until(there, add=old)
        self._until(there, add=new, gone=old)
        if number % 3 == 0:
            self._until(there, gone=new)

    def _until(self, there: set[str], *, add: str = "", gone: str = "") -> None:
        """Create, rename or delete until the backend has done it."""
        wanted = (there | {add}) - {gone, ""}
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                with self._backend.imap() as admin:
                    user = min(wanted | there, key=len)
                    if self._now(admin, user) != wanted:
                        self._say(admin, add, gone)
                    assert self._now(admin, user) == wanted
                there.clear()
                there.update(wanted)
                self.count += 1
                return
            except (imap.Refused, imaplib.IMAP4.abort, OSError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(AGAIN_S)

    def _now(self, admin: imap.Imap, user: str) -> set[str]:
        return imap.listed(admin, user) | imap.listed(admin, f"{user}.*")

    def _say(self, admin: imap.Imap, add: str, gone: str) -> None:
        if add and gone:
            imap.ok(admin.rename(gone, add))
        elif add:
            imap.create(admin, add)
        else:
            imap.delete(admin, gone)


class Mail(Load):
    """One message after the other to the same recipients, each until each recipient has had its 250."""

    def __init__(self, name: str, address: str, port: int, users: Sequence[str]) -> None:
        super().__init__()
        self.name = f"mail through {name}"
        self._address, self._port, self._users = address, port, users
        self.deferred: Counter[int] = Counter()
        """Codes of replies for now, and 0 for connections that were lost."""

    def step(self, number: int) -> None:
        owing = list(self._users)
        text = message(f"{self.name.replace(' ', '-')}-{number}")
        deadline = time.monotonic() + PATIENCE_S
        while owing:
            assert time.monotonic() < deadline, f"nobody takes it: {self.deferred}"
            try:
                with Lmtp(self._address, self._port) as client:
                    final = client.deliver("a@example.net", [f"{user}@example.org" for user in owing], text).final
            except (OSError, ValueError, AssertionError):
                self.deferred[0] += 1
                time.sleep(AGAIN_S)
                continue
            for user, reply in zip(tuple(owing), final, strict=True):
                assert reply.code // 100 in (2, 4), f"{user} exists: {reply}"
                if reply.code == 250:
                    owing.remove(user)
                else:
                    self.deferred[reply.code] += 1
            time.sleep(AGAIN_S)
        self.count += 1

    def subjects(self) -> set[bytes]:
        """The subject lines of all that was taken."""
        return {f"Subject: {self.name.replace(' ', '-')}-{number}\r\n".encode() for number in range(self.count)}
