"""A transaction of the common kind, passed on without taking it apart."""

from collections.abc import Callable
from typing import Protocol

from lmtp_router._passed import Taken
from lmtp_router.backends import BackendPools
from lmtp_router.channel import Channel
from lmtp_router.protocol.hops import Hops
from lmtp_router.protocol.types import Mail
from lmtp_router.routing import Route, Routing

class Traveller(Protocol):
    """What is asked of a session, beside what a Channel has."""

    @property
    def hops(self) -> Hops | None: ...
    def note(self, mail: Mail, passed: list[Taken], size: int) -> None:
        """The transaction is over, and every recipient has the message."""

    def retrace(self, octets: bytes, routes: list[Route]) -> None:
        """Take what the client said as its envelope, whose recipients go by `routes`."""

    def retrace_said(self, octets: bytes) -> None:
        """Take what the client said behind its envelope."""

    def backdate(self, began: float, opened: float, ended: float) -> None:
        """Say when that was."""

class Leg(Taken):
    """One backend and its recipients; the `Borrower` of the link to it."""

    @property
    def route(self) -> Route: ...

class Express:
    """The transactions of one session that go this way, one after the other."""

    def __init__(
        self, session: Traveller, channel: Channel, routing: Routing, pools: BackendPools, clock: Callable[[], float]
    ) -> None: ...
    def is_idle(self) -> bool: ...
    def begin(self, octets: bytes) -> bool: ...
    def client_said(self, octets: bytes) -> bool: ...
    def expire(self, now: float) -> bool: ...
    def leave(self) -> None: ...
