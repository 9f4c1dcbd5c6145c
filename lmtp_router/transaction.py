"""One transaction of a client, from MAIL to the last reply: its recipients, its deliveries, its body.

Rule: every RCPT has one reply, and every accepted one has one more after the message, in RCPT order, whatever the
backends do; the client is asked for the message only when somebody takes it.  No socket and no clock are in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from lmtp_router.body import Body
from lmtp_router.delivery import Delivery
from lmtp_router.interfaces import Client, Deadlines, Dispatch, Phase
from lmtp_router.protocol.identity import Origin
from lmtp_router.protocol.types import Mail, Rcpt, Reply, Verdict, reply
from lmtp_router.recipient import Recipient
from lmtp_router.results import Replies, Slot
from lmtp_router.routing import UNKNOWN_USER, Retraced, Route, Routing

MOVED = reply(451, "4.4.3 Mailbox is not where it should be, try again later")
ONE_AT_A_TIME = reply(452, "4.5.3 One recipient at a time: there is one reply for all of them")
MANY = reply(353, "2.0.0 A reply for each recipient follows")
ALL_TAKEN = reply(250, "2.0.0 OK for all recipients")
SOME_TAKEN = reply(250, "2.0.0 OK for some recipients, as said for each")
NONE_NOW = reply(451, "4.3.0 No recipient got the message, try again later as said for each")
NONE = reply(554, "5.3.0 No recipient got the message")
BARE_NEWLINE = reply(554, "5.6.11 Message has a bare CR or LF")
TOO_LARGE = reply(552, "5.3.4 Message is larger than this server takes")
FALSE_END = reply(554, "5.6.0 Message has a long line with a dot where a backend would end it")

LOOP = reply(554, "5.4.6 Message was passed on too often, it looks like a loop")

_SPOILED = {
    Verdict.BARE_NEWLINE: BARE_NEWLINE,
    Verdict.TOO_LARGE: TOO_LARGE,
    Verdict.FALSE_END: FALSE_END,
    Verdict.LOOP: LOOP,
}


class Transaction:
    """What the client is doing since MAIL."""

    __slots__ = (
        "_client",
        "_clock",
        "_deadlines",
        "_decided",
        "_deliveries",
        "_dispatch",
        "_ended",
        "_open",
        "_overall",
        "_replies",
        "_routing",
        "_taken",
        "_unanswered",
        "_unsettled",
        "_wants_data",
        "body",
        "mail",
        "recipients",
        "size",
    )

    def __init__(
        self,
        mail: Mail,
        client: Client,
        replies: Replies,
        routing: Routing,
        dispatch: Dispatch,
        deadlines: Deadlines,
        clock: Callable[[], float],
        body_limit: int,
    ) -> None:
        self.mail = mail
        self.body = Body(body_limit)
        self.recipients: list[Recipient] = []
        """The recipients that got a 2xx or have no answer yet, in RCPT order."""
        self.size = 0
        self._client = client
        self._replies = replies
        self._routing = routing
        self._dispatch = dispatch
        self._deadlines = deadlines
        self._clock = clock
        self._deliveries: list[Delivery] = []
        self._open: dict[str, Delivery] = {}
        """The delivery that takes further recipients, by server."""
        self._unanswered = 0
        self._taken = False
        """A recipient was accepted."""
        self._overall: Slot | None = None
        """Where the reply behind those for each recipient goes (PRDR)."""
        self._unsettled = 0
        self._wants_data = False
        self._decided = False
        self._ended = False

    @property
    def origin(self) -> Origin:
        """Who sends."""
        return self._client.origin

    @property
    def unanswered(self) -> int:
        """Number of RCPTs whose reply is still to come."""
        return self._unanswered

    @property
    def live(self) -> bool:
        """True while a delivery is not over."""
        return any(delivery.phase is not Phase.OVER for delivery in self._deliveries)

    @property
    def over(self) -> bool:
        """True when the message has come and every recipient has its reply."""
        return self._ended and not self._unsettled

    @property
    def blocked(self) -> bool:
        """True while the client has to wait for a backend."""
        return self.body.full or any(delivery.blocked for delivery in self._deliveries)

    def retrace(self, routes: Iterable[Route]) -> None:
        """The recipients that are named next are on their way: they go by `routes`."""
        self._routing = Retraced(self._routing, routes)

    def backdate(self, began: float, opened: float, ended: float) -> None:
        """Say when that was which has just been retraced: RCPT, 354 and the end of the message (0: not yet)."""
        for recipient in self.recipients:
            recipient.started = began
        for delivery in self._deliveries:
            times = delivery.times
            times.asked = times.linked = began
            times.opened = opened if times.opened and opened else times.opened
            times.ended = ended if times.ended and ended else times.ended

    def rcpt(self, rcpt: Rcpt) -> None:
        """The client named a recipient: its reply comes from the lookup or from its backend."""
        recipient = Recipient(rcpt, self._replies.reserve(), self._clock())
        self.recipients.append(recipient)
        self._unanswered += 1
        if self.mail.one_reply and (self._taken or self._unanswered > 1):
            self.recipient_answered(recipient, ONE_AT_A_TIME)
            return
        route = self._routing.route(rcpt)
        if isinstance(route, Reply):
            self.recipient_answered(recipient, route)
        else:
            self._assign(recipient, route)

    def _assign(self, recipient: Recipient, route: Route) -> None:
        delivery = self._open.get(route.server)
        if delivery is not None and delivery.takes_recipients:
            delivery.add(recipient)
            return
        delivery = Delivery(route, self.mail, self, self._dispatch, self._deadlines, self._clock)
        self._deliveries.append(delivery)
        self._open[route.server] = delivery
        delivery.add(recipient)
        if self._wants_data:
            delivery.request_data()
        delivery.start()

    def data(self) -> None:
        """The client wants to send: the backends are asked at once, it gets its 354 when each RCPT has its reply."""
        self._wants_data = True
        for delivery in list(self._deliveries):
            delivery.request_data()
        self._decide()

    def _decide(self) -> None:
        if not self._wants_data or self._unanswered or self._decided:
            return
        self._decided = True
        self.recipients = [recipient for recipient in self.recipients if recipient.accepted]
        self._unsettled = sum(recipient.final is None for recipient in self.recipients)
        if not self.recipients:
            self.cancel()
        self._client.data_decided(bool(self.recipients))
        self.delivery_moved()

    def recipient_answered(self, recipient: Recipient, answer: Reply) -> None:
        """The reply to RCPT, from a backend or from the lookup."""
        recipient.answer = answer
        self._unanswered -= 1
        if answer.positive:
            self._replies.fill(recipient.slot, answer.raw)
            self._taken = True
        else:
            self._replies.fill(recipient.slot, self._client.signed(answer))
            self._client.recipient_done(recipient, answer, 0)
        self._decide()

    def recipient_unknown(self, recipient: Recipient, answer: Reply) -> None:
        """The backend knows no such mailbox.  A stale location is no bounce: ask again, go there once, else defer."""
        route = self._routing.route(recipient.rcpt)
        if route is UNKNOWN_USER or (isinstance(route, Route) and route.buried and route.server == recipient.server):
            # Index and backend agree: the backend says it in its own words.
            self.recipient_answered(recipient, answer)
        elif isinstance(route, Reply):
            self.recipient_answered(recipient, route)
        elif recipient.rerouted or route.server == recipient.server:
            self.recipient_answered(recipient, MOVED)
        else:
            recipient.rerouted = True
            self._assign(recipient, route)

    def recipient_settled(self, recipient: Recipient, final: Reply) -> None:
        """The last word on an accepted recipient.

        One that its backend took at RCPT and no longer knows was moved or renamed meanwhile: this body can not follow
        it any more, the sender's next attempt will.
        """
        if final.code == 550 and final.has_status(b"5.1.1"):
            route = self._routing.route(recipient.rcpt)
            if route is not UNKNOWN_USER:
                final = route if isinstance(route, Reply) else MOVED
        recipient.final = final
        if self._decided:
            self._unsettled -= 1
        if self._ended:
            self._tell(recipient, final)
            self._sum_up()

    def _tell(self, recipient: Recipient, final: Reply) -> None:
        self._replies.fill(recipient.slot, final.raw if final.code < 400 else self._client.signed(final))
        self._client.recipient_done(recipient, final, self.size)

    def feed(self, chunk: bytes) -> None:
        """A piece of the message, for every backend at once."""
        self.body.append(chunk)
        for delivery in self._deliveries:
            delivery.feed(chunk)

    def spoil(self, verdict: Verdict) -> None:
        """The message can not be delivered: no backend gets its end, no recipient a success."""
        self.cancel()
        for recipient in self.recipients:
            if recipient.final is None:
                self.recipient_settled(recipient, _SPOILED[verdict])

    def end(self, size: int) -> None:
        """The message is whole: `size` octets."""
        self._ended = True
        self.size = size
        self.body.complete = True
        many = self.mail.prdr and len(self.recipients) > 1
        if many:
            self._replies.add(MANY.raw)
        for recipient in self.recipients:
            recipient.slot = self._replies.reserve()
        if many:
            self._overall = self._replies.reserve()
        for recipient in self.recipients:
            if recipient.final is not None:
                self._tell(recipient, recipient.final)
        self._sum_up()
        for delivery in list(self._deliveries):
            delivery.finish()
        self.delivery_moved()

    def _sum_up(self) -> None:
        """The reply behind those for each recipient: positive if one got the message, temporary if one may yet.

        A client may take a negative one for all recipients, so it must not be worse than what was said for any.
        """
        if self._overall is None or self._unsettled:
            return
        slot, self._overall = self._overall, None
        finals = [recipient.final for recipient in self.recipients if recipient.final is not None]
        taken = sum(final.positive for final in finals)
        if taken:
            last = ALL_TAKEN if taken == len(finals) else SOME_TAKEN
        else:
            last = NONE_NOW if any(final.code // 100 == 4 for final in finals) else NONE
        self._replies.fill(slot, self._client.signed(last))

    def cancel(self) -> None:
        """Give up whatever has not been sent whole: RSET, a client that is gone, a message that is spoiled."""
        for delivery in list(self._deliveries):
            delivery.cancel()
        self.body.drop()

    def delivery_moved(self) -> None:
        """A gate opened, a backend takes octets again, or a delivery is over."""
        if self._decided and self.body.keep and not any(delivery.gated for delivery in self._deliveries):
            self.body.drop()
        self._client.transaction_moved()

    def flush(self) -> None:
        """All that came in one piece from a backend has been told."""
        self._client.flush()

    def expire(self, now: float) -> None:
        """Drop the deliveries whose deadline has passed."""
        for delivery in list(self._deliveries):
            if delivery.deadline <= now:
                delivery.expire()
        self._client.flush()
