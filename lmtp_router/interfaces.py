"""What the parts of a transaction ask of each other.

Rule: delivery and transaction know their neighbours only by these; sockets and clocks are behind them, so that every
order of events can be played without any.
"""

from __future__ import annotations

import enum
from typing import Protocol

from lmtp_router.body import Body
from lmtp_router.protocol.identity import Origin
from lmtp_router.protocol.types import Mail, Reply, Sent
from lmtp_router.recipient import Recipient
from lmtp_router.routing import Route


class Phase(enum.Enum):
    """How far a delivery is."""

    WAITING = "waiting"
    ENVELOPE = "envelope"
    GATED = "gated"
    BODY = "body"
    FINAL = "final"
    OVER = "over"


class Link(Protocol):
    """A connection to a backend that is ready for a transaction; it reports through `Delivery`'s methods."""

    @property
    def reused(self) -> bool:
        """True if it has waited in the pool: the backend may have closed it unseen."""

    @property
    def extensions(self) -> frozenset[bytes]: ...

    @property
    def outstanding(self) -> int: ...

    @property
    def paused(self) -> bool:
        """True while the backend takes less than it is given."""

    def mail(self, mail: Mail) -> None: ...

    def rcpt(self, path: bytes, recipient: Recipient) -> None: ...

    def data(self) -> None: ...

    def body(self, chunk: bytes) -> None: ...

    def end(self, recipients: list[Recipient]) -> None: ...

    def release(self) -> None:
        """The delivery needs the link no more: it is reset, if need be, and kept."""

    def close(self) -> None:
        """Close at once: a message that was begun ends nowhere."""


class LinkUser(Protocol):
    """What a link and its pool tell the delivery that has it or waits for it."""

    @property
    def route(self) -> Route: ...

    @property
    def phase(self) -> Phase: ...

    @property
    def origin(self) -> Origin:
        """Who sends."""

    def connected(self, link: Link) -> None:
        """A link is there."""

    def unavailable(self, answer: Reply) -> None:
        """There will be no link."""

    def answered(self, sent: Sent, context: object, answer: Reply) -> None:
        """The backend answered a command."""

    def paused(self) -> None:
        """The backend takes less than it is given."""

    def resumed(self) -> None:
        """The backend takes octets again."""

    def lost(self) -> None:
        """The link is gone, or said what no backend may say."""

    def flush(self) -> None:
        """All that came in one piece from the backend has been told."""


class Dispatch(Protocol):
    """Where links come from: calls `LinkUser.connected` or `LinkUser.unavailable`, at once or later."""

    def acquire(self, delivery: LinkUser, *, fresh: bool) -> None: ...

    def withdraw(self, delivery: LinkUser) -> None: ...


class Owner(Protocol):
    """The transaction, as its deliveries see it."""

    @property
    def body(self) -> Body: ...

    @property
    def origin(self) -> Origin:
        """Who sends."""

    def recipient_answered(self, recipient: Recipient, answer: Reply) -> None:
        """The reply to RCPT."""

    def recipient_unknown(self, recipient: Recipient, answer: Reply) -> None:
        """The backend knows no such mailbox: the location may be stale."""

    def recipient_settled(self, recipient: Recipient, final: Reply) -> None:
        """The reply after the message, or what stands for it."""

    def delivery_moved(self) -> None:
        """The gate opened, the backend takes octets again, or the delivery is over."""

    def flush(self) -> None:
        """All that came in one piece from the backend has been told."""


class Deadlines(Protocol):
    """Seconds, as in `[lmtp] timeouts`."""

    @property
    def connect(self) -> float: ...

    @property
    def greeting(self) -> float: ...

    @property
    def envelope(self) -> float: ...

    @property
    def mail(self) -> float:
        """For the reply to MAIL."""

    @property
    def rcpt(self) -> float:
        """For the reply to each RCPT."""

    @property
    def go_ahead(self) -> float:
        """For 354."""

    @property
    def data(self) -> float: ...

    @property
    def final(self) -> float: ...


class Client(Protocol):
    """The session, as its transaction sees it."""

    @property
    def origin(self) -> Origin:
        """Who sends."""

    def signed(self, answer: Reply) -> bytes:
        """A reply as it is sent: our own failures name the session."""

    def data_decided(self, accepted: bool) -> None:
        """Every RCPT has its reply: 354 if `accepted`, else nobody takes the message."""

    def transaction_moved(self) -> None:
        """A backend takes octets again, or the last reply is there."""

    def recipient_done(self, recipient: Recipient, final: Reply, size: int) -> None:
        """For the log: the last word on a recipient."""

    def flush(self) -> None:
        """Write the replies that are ready."""
