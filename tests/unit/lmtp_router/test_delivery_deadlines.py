"""Which deadline a delivery has while it waits for which reply, on a clock that a test turns."""

from __future__ import annotations

import math

from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.body import Body
from lmtp_router.delivery import Delivery
from lmtp_router.interfaces import LinkUser
from lmtp_router.protocol.identity import Origin
from lmtp_router.protocol.types import Mail, Rcpt, Reply, Sent
from lmtp_router.recipient import Recipient
from lmtp_router.results import Slot
from lmtp_router.routing import Route

T = Timeouts(connect=1, greeting=2, envelope=4, mail=100, rcpt=200, go_ahead=400, data=800, final=1600)
OK = Reply(250, b"250 ok\r\n")
GO_AHEAD = Reply(354, b"354 go\r\n")


class Played:
    """Link, pool and transaction in one; counts what is owed."""

    reused = paused = False
    extensions: frozenset[bytes] = frozenset()

    def __init__(self) -> None:
        self.origin = Origin()
        self.body = Body(1 << 16)
        self.outstanding = 0

    def acquire(self, delivery: LinkUser, *, fresh: bool) -> None: ...

    def withdraw(self, delivery: LinkUser) -> None: ...

    def mail(self, mail: Mail) -> None:
        self.outstanding += 1

    def rcpt(self, path: bytes, recipient: Recipient) -> None:
        self.outstanding += 1

    def data(self) -> None:
        self.outstanding += 1

    def end(self, recipients: list[Recipient]) -> None:
        self.outstanding += len(recipients)

    def release(self) -> None: ...

    def close(self) -> None: ...

    def recipient_answered(self, recipient: Recipient, answer: Reply) -> None:
        recipient.answer = answer

    def recipient_unknown(self, recipient: Recipient, answer: Reply) -> None: ...

    def recipient_settled(self, recipient: Recipient, final: Reply) -> None:
        recipient.final = final

    def delivery_moved(self) -> None: ...

    def flush(self) -> None: ...


class Clock:
    now = 10_000.0


def test_one_after_the_other() -> None:
    played, clock = Played(), Clock()
    delivery = Delivery(Route("a", "h", 24), Mail(b"<>"), played, played, T, lambda: clock.now)
    recipients = [Recipient(Rcpt(b"<u%d@x>" % number), Slot(), clock.now) for number in range(2)]

    def left_s() -> float:
        return delivery.deadline - clock.now

    def answered(sent: Sent, context: object, reply: Reply) -> float:
        clock.now += 50
        played.outstanding -= 1
        delivery.answered(sent, context, reply)
        return left_s()

    for recipient in recipients:
        delivery.add(recipient)
    delivery.start()
    assert left_s() == T.connect + T.greeting + T.envelope
    delivery.request_data()
    delivery.connected(played)  # type: ignore[arg-type]
    assert left_s() == T.mail
    assert answered(Sent.MAIL, None, OK) == T.rcpt
    assert answered(Sent.RCPT, recipients[0], OK) == T.rcpt, "each has its own"
    assert answered(Sent.RCPT, recipients[1], OK) == T.go_ahead
    assert answered(Sent.DATA, None, GO_AHEAD) == math.inf, "now the client has the word"
    delivery.finish()
    assert left_s() == T.final
    assert answered(Sent.MESSAGE, recipients[0], OK) == T.final
    assert answered(Sent.MESSAGE, recipients[1], OK) == math.inf


def test_the_client_takes_its_time() -> None:
    """While nothing is owed by the backend nothing runs out."""
    played, clock = Played(), Clock()
    delivery = Delivery(Route("a", "h", 24), Mail(b"<>"), played, played, T, lambda: clock.now)
    first, second = (Recipient(Rcpt(b"<u%d@x>" % number), Slot(), clock.now) for number in range(2))
    delivery.add(first)
    delivery.start()
    delivery.connected(played)  # type: ignore[arg-type]
    for sent, context in ((Sent.MAIL, None), (Sent.RCPT, first)):
        played.outstanding -= 1
        delivery.answered(sent, context, OK)
    assert delivery.deadline == math.inf
    delivery.add(second)
    assert delivery.deadline - clock.now == T.rcpt
    played.outstanding -= 1
    delivery.answered(Sent.RCPT, second, OK)
    delivery.request_data()
    assert delivery.deadline - clock.now == T.go_ahead


def test_what_is_not_set_is_as_envelope() -> None:
    some = Timeouts(envelope=7, rcpt=3)
    assert (some.mail, some.rcpt, some.go_ahead) == (7, 3, 7)
    assert Timeouts().mail == Timeouts().envelope
