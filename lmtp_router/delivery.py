"""One transaction to one backend: its envelope, its gate, its body, its replies.

Rule: the body goes only through the gate that the backend's 354 opened, a recipient's success is only ever the
backend's reply to that recipient, and a lost backend settles only the recipients it had not answered.  No socket and
no clock are in here; the link and the owner have them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lmtp_router.interfaces import Deadlines, Dispatch, Link, Owner, Phase
from lmtp_router.protocol.identity import Origin
from lmtp_router.protocol.parameters import DSN
from lmtp_router.protocol.types import Mail, Reply, Sent, reply
from lmtp_router.recipient import Recipient, Times
from lmtp_router.routing import Route

LOST = reply(451, "4.4.2 Connection to the backend was lost, try again later")
TIMED_OUT = reply(451, "4.4.2 The backend did not answer in time, try again later")
NOT_READY = reply(451, "4.4.1 No connection to the backend in time, try again later")
LACKS = reply(451, "4.3.3 The backend lacks an extension that this message needs, say LHLO or EHLO again")
"""Temporary: what the client is offered next is what all backends have, and it then converts, or bounces in its own
words."""

_BEFORE_BODY = frozenset({Phase.WAITING, Phase.ENVELOPE, Phase.GATED})


class Delivery:
    """One transaction to the backend of `route`."""

    __slots__ = (
        "_accepted",
        "_awaited",
        "_clock",
        "_deadlines",
        "_dispatch",
        "_link",
        "_mail",
        "_mail_due",
        "_owner",
        "_recipients",
        "_replayed",
        "_wants_data",
        "deadline",
        "phase",
        "route",
        "times",
    )

    def __init__(
        self,
        route: Route,
        mail: Mail,
        owner: Owner,
        dispatch: Dispatch,
        deadlines: Deadlines,
        clock: Callable[[], float],
    ) -> None:
        self.route = route
        self.phase = Phase.WAITING
        self.deadline = math.inf
        self.times = Times()
        self._mail = mail
        self._owner = owner
        self._dispatch = dispatch
        self._deadlines = deadlines
        self._clock = clock
        self._link: Link | None = None
        self._recipients: list[Recipient] = []
        self._accepted: list[Recipient] = []
        """Accepted on the present link, in the order in which it will answer for them."""
        self._mail_due = False
        """The present link has not answered MAIL."""
        self._awaited = 0
        """RCPTs that the present link has not answered."""
        self._wants_data = False
        self._replayed = False

    @property
    def origin(self) -> Origin:
        """Who sends."""
        return self._owner.origin

    @property
    def takes_recipients(self) -> bool:
        """True while another RCPT can still join."""
        return self.phase is Phase.WAITING or (self.phase is Phase.ENVELOPE and not self._wants_data)

    @property
    def gated(self) -> bool:
        """True while the body, from its start, may still be asked for."""
        return self.phase in _BEFORE_BODY and any(r.open and r.delivery is self for r in self._recipients)

    @property
    def blocked(self) -> bool:
        """True while the backend takes less than it is given."""
        return self.phase is Phase.BODY and self._link is not None and self._link.paused

    def start(self) -> None:
        """Ask for a link."""
        timeouts = self._deadlines
        self.times.asked = self._clock()
        self.deadline = self.times.asked + timeouts.connect + timeouts.greeting + timeouts.envelope
        self._dispatch.acquire(self, fresh=self._replayed)

    def add(self, recipient: Recipient) -> None:
        """Take a recipient; only while `takes_recipients`."""
        recipient.server = self.route.server
        recipient.delivery = self
        recipient.times = self.times
        self._recipients.append(recipient)
        if self.phase is Phase.ENVELOPE:
            self._send_rcpt(recipient)
            self._wait_envelope()

    def request_data(self) -> None:
        """The client wants to send: ask for the go-ahead, behind the RCPTs that are still to be answered."""
        self._wants_data = True
        if self.phase is Phase.ENVELOPE:
            self._send_data()

    def connected(self, link: Link) -> None:
        """A link is there: send what has gathered."""
        self._link = link
        self.phase = Phase.ENVELOPE
        self.times.linked = self._clock()
        self._accepted = []
        self._awaited = 0
        if self._mail.needs and not self._mail.needs <= link.extensions:
            self._release()
            self._settle_open(LACKS)
            return
        link.mail(self._mail)
        self._mail_due = True
        for recipient in self._recipients:
            if recipient.open and recipient.delivery is self:
                self._send_rcpt(recipient)
        self._wait_envelope()
        # The last recipient may have been refused without asking, and the transaction be over with it.
        if self._wants_data and self.phase is Phase.ENVELOPE:
            self._send_data()

    def _send_rcpt(self, recipient: Recipient) -> None:
        assert self._link is not None
        rcpt = recipient.rcpt
        path = rcpt.path
        if rcpt.parameters:
            if DSN in self._link.extensions:
                path += rcpt.parameters
            elif rcpt.needs_dsn:
                self._refuse(recipient, LACKS)
                return
            else:
                # RFC 3461 section 5.2.2: a backend that writes no notices has no use for the original recipient.
                recipient.left_out = rcpt.parameters
        self._link.rcpt(path, recipient)
        self._awaited += 1

    def _refuse(self, recipient: Recipient, answer: Reply) -> None:
        """Answer for a backend that is not asked."""
        if recipient.answer is None:
            self._owner.recipient_answered(recipient, answer)
        else:
            # Accepted on a link that was lost before the body.
            self._owner.recipient_settled(recipient, answer)

    def _send_data(self) -> None:
        assert self._link is not None
        if not self._awaited and not any(recipient.final is None for recipient in self._accepted):
            self._release()
            return
        self._link.data()
        self.phase = Phase.GATED
        self._wait_envelope()

    def _wait_envelope(self) -> None:
        """Begin the deadline of the reply that comes next."""
        if self._link is None or not self._link.outstanding:
            self.deadline = math.inf
            return
        timeouts = self._deadlines
        wait_s = timeouts.mail if self._mail_due else timeouts.rcpt if self._awaited else timeouts.go_ahead
        self.deadline = self._clock() + wait_s

    def answered(self, sent: Sent, context: object, answer: Reply) -> None:
        """The backend answered a command of this transaction."""
        if self.phase is Phase.OVER:
            return
        if answer.code == 421:
            # The backend is closing: its own words would make our client close too.
            self._drop(LOST)
        elif sent is Sent.MAIL:
            self._mail_due = False
            if answer.failure:
                self._settle_open(answer)
                if self.phase is Phase.ENVELOPE:
                    self._release()
        elif sent is Sent.RCPT:
            assert isinstance(context, Recipient)
            self._rcpt_answered(context, answer)
        elif sent is Sent.DATA:
            self._data_answered(answer)
        elif sent is Sent.MESSAGE:
            assert isinstance(context, Recipient)
            self.deadline = self._clock() + self._deadlines.final
            self._owner.recipient_settled(context, answer)
            if self._link is not None and not self._link.outstanding:
                self._release()
        if self.phase in (Phase.ENVELOPE, Phase.GATED):
            self._wait_envelope()

    def _rcpt_answered(self, recipient: Recipient, answer: Reply) -> None:
        self._awaited -= 1
        if recipient.delivery is not self or not recipient.open:
            # MAIL was refused, and that is this recipient's answer.
            return
        if answer.positive:
            self._accepted.append(recipient)
        if recipient.answer is not None:
            if not answer.positive:
                # Accepted on a link that was lost before the body, refused on its successor.
                self._owner.recipient_settled(recipient, answer)
        elif answer.code == 550 and answer.has_status(b"5.1.1"):
            recipient.delivery = None
            self._owner.recipient_unknown(recipient, answer)
        else:
            self._owner.recipient_answered(recipient, answer)

    def _data_answered(self, answer: Reply) -> None:
        if answer.failure:
            self._release()
            self._settle_open(answer)
        elif any(recipient.final is None for recipient in self._accepted):
            self._open_gate()
        else:
            # 354 for nobody: the one way not to send a message now is to close.
            self._close()

    def _open_gate(self) -> None:
        self.phase = Phase.BODY
        self.deadline = math.inf
        self.times.opened = self._clock()
        body = self._owner.body
        assert self._link is not None
        for chunk in body.chunks():
            self._link.body(chunk)
        if body.complete:
            self.finish()
        self._owner.delivery_moved()

    def feed(self, chunk: bytes) -> None:
        """Pass a chunk on, if the gate is open; else it waits in the body."""
        if self.phase is Phase.BODY and self._link is not None:
            self._link.body(chunk)

    def finish(self) -> None:
        """The message is whole: end it, if the gate is open."""
        if self.phase is Phase.BODY and self._link is not None:
            self.phase = Phase.FINAL
            self.times.ended = self._clock()
            self.deadline = self.times.ended + self._deadlines.final
            self._link.end(self._accepted)

    def paused(self) -> None:
        """The backend takes less than it is given: it has `data` seconds to go on."""
        if self.phase is Phase.BODY:
            self.deadline = self._clock() + self._deadlines.data

    def resumed(self) -> None:
        """The backend takes octets again."""
        if self.phase is Phase.BODY:
            self.deadline = math.inf
            self._owner.delivery_moved()

    def lost(self) -> None:
        """The link is gone, or said what no backend may say."""
        if self.phase in (Phase.WAITING, Phase.OVER):
            return
        self._drop(LOST)

    def unavailable(self, answer: Reply) -> None:
        """There will be no link."""
        if self.phase is Phase.WAITING:
            self.phase = Phase.OVER
            self._settle_open(answer)

    def expire(self) -> None:
        """The deadline has passed."""
        if self.phase is Phase.WAITING:
            self._dispatch.withdraw(self)
            self.unavailable(NOT_READY)
        elif self.phase is not Phase.OVER:
            self._close()
            self._settle_open(TIMED_OUT)

    def cancel(self) -> None:
        """The client is gone, or the message is bad.  A message whose end was sent is not called back."""
        if self.phase is Phase.WAITING:
            self._dispatch.withdraw(self)
            self.phase = Phase.OVER
        elif self.phase is Phase.ENVELOPE:
            self._release()
        elif self.phase in (Phase.GATED, Phase.BODY):
            self._close()

    def flush(self) -> None:
        """All that came in one piece from the backend has been told."""
        self._owner.flush()

    def _drop(self, answer: Reply) -> None:
        """The link is of no use.  One that had waited in the pool is replaced once, if no octet of the body went."""
        replay = self._link is not None and self._link.reused and not self._replayed and self.phase in _BEFORE_BODY
        self._close()
        if replay:
            self._replayed = True
            self.phase = Phase.WAITING
            self.start()
        else:
            self._settle_open(answer)

    def _settle_open(self, answer: Reply) -> None:
        """Give `answer` to every recipient that still waits for one."""
        for recipient in self._recipients:
            if recipient.delivery is not self:
                continue
            if recipient.answer is None:
                self._owner.recipient_answered(recipient, answer)
            elif recipient.open:
                self._owner.recipient_settled(recipient, answer)
        self._owner.delivery_moved()

    def _release(self) -> None:
        link, self._link = self._link, None
        self.phase = Phase.OVER
        self.deadline = math.inf
        if link is not None:
            link.release()

    def _close(self) -> None:
        link, self._link = self._link, None
        self.phase = Phase.OVER
        self.deadline = math.inf
        if link is not None:
            link.close()
