"""The connection of a client below its session: its transport, TLS on it, and who is at its other end.

Rule: what a client said in the clear counts for nothing under TLS (RFC 3207 section 4.2), and what was sent behind
STARTTLS before its reply ends the connection: it could be somebody else's.  What it says of others is believed only
from networks in `trusted`, and changes what is told and logged, never what is permitted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, cast

from cyrusext.runtime import logging
from cyrusext.wire.sasl import Secret
from lmtp_router.bulk import Share
from lmtp_router.doors import Door
from lmtp_router.journal import Journal
from lmtp_router.protocol.identity import XCLIENT, XFORWARD, Origin, iter_known
from lmtp_router.protocol.parameters import SMTPUTF8
from lmtp_router.protocol.proxy import Endpoint, plain
from lmtp_router.protocol.received import build_received, with_protocol
from lmtp_router.protocol.server import ServerConnection
from lmtp_router.protocol.types import Auth, AuthResponse, Mail, OwnReply, Reply, Xclient, Xforward, reply
from lmtp_router.results import Replies, Slot
from lmtp_router.settings import Settings, is_local
from lmtp_router.turn import Outlet, Turn

if TYPE_CHECKING:
    # Loaded only where clients log in.
    from lmtp_router.logins import LoginDesk

CLOSE_S = 2.0
"""How long a client may take to say good-bye under TLS."""
LOGIN_S = 60.0
"""How long a client that has to log in before it may send mail may take for that."""

NOTHING_CLAIMED: Mapping[str, str] = MappingProxyType({})
_XCLIENT, _XFORWARD = f"XCLIENT {' '.join(XCLIENT)}", f"XFORWARD {' '.join(XFORWARD)}"

OK = reply(250, "2.0.0 OK")
SENDER_OK = reply(250, "2.1.0 OK")
GO_AHEAD = reply(354, "End data with <CR><LF>.<CR><LF>")
CHALLENGE = b"334 \r\n"
"""PLAIN begins with what the client says, so there is nothing in it (RFC 4954 section 4)."""
BEGIN_TLS = reply(220, "2.0.0 Ready to start TLS")
PIPELINED = reply(501, "5.5.4 Nothing may follow STARTTLS before its reply, closing connection")

log = logging.get()


class Reception(Protocol):
    """What a channel asks of the frontend that it belongs to."""

    @property
    def settings(self) -> Settings: ...

    @property
    def journal(self) -> Journal: ...

    @property
    def greeting(self) -> bytes: ...

    @property
    def smtp_greeting(self) -> bytes: ...

    @property
    def turn(self) -> Turn: ...

    @property
    def logins(self) -> LoginDesk | None: ...

    @property
    def share(self) -> Share: ...

    def next_id(self) -> str: ...

    def now(self) -> float: ...

    def date(self) -> bytes:
        """The date and time of now, as a message has it, with CRLF."""

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Run what has to wait, until it is done or the frontend stops."""


class Channel:
    """The lower half of a session."""

    def __init__(self, reception: Reception, door: Door, source: Endpoint | None = None) -> None:
        """`source` is where the client is, if a balancer said so."""
        self._reception = reception
        self._settings = settings = reception.settings
        self._door = door
        self._connection = ServerConnection(
            settings.limits, replace_bare_newlines=settings.replace_bare_newlines, smtp=door.smtp
        )
        self._replies = Replies()
        self._transport: Outlet | None = None
        """None before and after the connection, and while TLS begins."""
        self._securing: asyncio.Transport | None = None
        """The transport on which TLS begins."""
        self._secure = door.tls
        """What comes, comes under TLS."""
        self._id = ""
        self._closing = False
        self._source = source
        self._believed = False
        """Its word on others counts."""
        self._private = False
        """It is on this machine: a password crosses no network."""
        self._login = ""
        """Whom it has logged in as."""
        self._failed_logins = 0
        self._login_by = 0.0
        """When it must have logged in; 0: it need not."""
        self._helo = b""
        self._extended = True
        """It did not say HELO."""
        self._origin: Origin | None = None
        self._claimed: Mapping[str, str] = NOTHING_CLAIMED
        """By XCLIENT: of the session."""
        self._forwarded: Mapping[str, str] = NOTHING_CLAIMED
        """By XFORWARD: of the next transaction."""
        self._first = b""
        """What was already written in front of the message that is said again."""
        if settings.tls is not None:
            self._offer()

    @property
    def _greeting(self) -> bytes:
        return self._reception.smtp_greeting if self._door.smtp else self._reception.greeting

    def _offer(self) -> None:
        """Say in the reply to LHLO what this client may use now."""
        offers = ["STARTTLS"] if self._settings.tls is not None and not self._secure else []
        if self._settings.logins is not None and (self._secure or self._private):
            offers.append("AUTH PLAIN")
        if self._believed:
            offers += [_XCLIENT, _XFORWARD]
        self._connection.offers = tuple(offers)

    def _admit(self, peer: object) -> bool:
        """True if the client at the other end may deliver, or may log in for that; says what it may use."""
        settings = self._settings
        self._private = self._source is None and is_local(peer)
        if self._source is not None:
            # Its loopback is not ours: only networks count.
            admitted = self._believed = settings.believes(self._source)
        else:
            admitted = settings.admits(peer)
            self._believed = admitted and settings.believes(peer)
        if self._believed or settings.logins is not None:
            self._offer()
        if not admitted and settings.hears_strangers:
            self._login_by = self._reception.now() + LOGIN_S
            self._connection.login_required = admitted = True
        return admitted

    @property
    def is_stranger(self) -> bool:
        """True while it has to log in before it may send mail."""
        return self._login_by > 0.0

    def signed(self, answer: Reply) -> bytes:
        """Return `answer` as it is sent: if it is a failure in our own words, with the session that the log names."""
        return answer.signed(self._id.encode("ascii")) if isinstance(answer, OwnReply) else answer.raw

    @property
    def origin(self) -> Origin:
        """Who sends, as far as it is known: the client, or whom it speaks for."""
        if self._origin is None:
            self._origin = self._peer_origin().claimed(self._claimed).claimed(self._forwarded)
        return self._origin

    def _peer_origin(self) -> Origin:
        transport = self._transport or self._securing
        peer = self._source or (transport.get_extra_info("peername") if transport is not None else None)
        address, port = (plain(peer[0]), peer[1]) if peer else ("", 0)
        return Origin(
            address=address,
            port=port,
            protocol=("ESMTP" if self._extended else "SMTP") if self._door.smtp else "LMTP",
            helo=self._helo.decode("utf-8", "backslashreplace"),
            ident=self._id,
            login=self._login,
        )

    def _obey_auth(self, command: Auth | AuthResponse) -> None:
        """A login: ask for what proves it, or have that looked at; meanwhile nothing is taken from the client."""
        message = command.initial if isinstance(command, Auth) else command.data
        if message is None:
            self._connection.challenged()
            self._replies.add(CHALLENGE)
        else:
            self._reception.run(self._log_in(message, self._replies.reserve()))

    async def _log_in(self, message: Secret, slot: Slot) -> None:
        desk, transport = self._reception.logins, self._transport
        assert desk is not None
        peer = self._source or (transport.get_extra_info("peername") if transport is not None else None)
        checked = await desk.check(
            message,
            session=self._id,
            peer=f"{plain(peer[0])}:{peer[1]}" if peer else "unix",
            secure=self._secure,
            failed=self._failed_logins,
        )
        if self._transport is None:
            return
        self._connection.login_decided(good=bool(checked.user))
        self._replies.fill(slot, self.signed(checked.reply))
        if checked.user:
            self._login, self._login_by, self._origin = checked.user, 0.0, None
            self._logged_in()
        else:
            self._failed_logins += 1
            self._closing = self._closing or checked.reply.code == 421
        self.flush()

    def _obey_xclient(self, command: Xclient) -> None:
        """Begin anew, with the client that the peer speaks for."""
        self._claimed = {**self._claimed, **command.attributes}
        self._forwarded, self._helo, self._origin = NOTHING_CLAIMED, b"", None
        log.info("lmtp.client", session=self._id, **dict(iter_known(self.origin)))
        self._replies.add(self._greeting)

    def _obey_xforward(self, command: Xforward) -> None:
        self._forwarded = {**self._forwarded, **command.attributes}
        self._origin = None
        self._replies.add(OK.raw)

    def _received(self, mail: Mail) -> bytes:
        """The Received field of a message, with its date."""
        protocol = with_protocol(
            smtp=self._door.smtp,
            extended=self._extended,
            utf8=SMTPUTF8 in mail.needs,
            secure=self._secure,
            login=bool(self.origin.login),
        )
        return build_received(self.origin, self._settings.hostname, protocol, self._id) + self._reception.date()

    # For what goes the short way (_express.pyx).

    @property
    def max_size(self) -> int:
        return self._settings.limits.max_size

    @property
    def replace_bare_newlines(self) -> bool:
        return self._settings.replace_bare_newlines

    def would_take(self, mail: Mail, recipients: int) -> bool:
        """Would MAIL and so many RCPTs be taken now?"""
        return self._connection.would_take(mail, recipients)

    def first_octets(self, mail: Mail) -> bytes:
        """What stands in front of the message, or nothing."""
        self._first = self._received(mail) if self._settings.received else b""
        return self._first

    def tell(self, octets: bytes) -> None:
        """Write to the client."""
        if self._transport is not None:
            self._transport.write(octets)

    def expect(self, octets: bytes) -> None:
        """The client has heard this already."""
        if self._transport is not None:
            self._transport.expect(octets)

    def _forget_forwarded(self) -> None:
        """The transaction is over: the next one has its own XFORWARD."""
        if self._forwarded:
            self._forwarded, self._origin = NOTHING_CLAIMED, None

    def _obey_starttls(self) -> None:
        """STARTTLS, when all replies before its own are known."""
        assert self._transport is not None
        if self._connection.buffered:
            self._replies.add(PIPELINED.raw)
            self._closing = True
            return
        self._replies.add(BEGIN_TLS.raw)
        self._transport.write(self._replies.ready())
        self._transport.flush()
        transport, self._transport = self._transport.transport, None
        # At once: an octet that was read in the clear would be missing in the handshake.
        transport.pause_reading()
        self._securing = transport
        self._reception.run(self._wait_for_tls(transport))

    async def _wait_for_tls(self, transport: asyncio.Transport) -> None:
        assert self._settings.tls is not None
        peer = transport.get_extra_info("peername")
        try:
            secured = await self._settings.tls.begin(
                transport, cast(asyncio.Protocol, self), self._settings.deadlines.greeting, CLOSE_S
            )
        except ConnectionError as error:
            log.info("lmtp.tls_failed", session=self._id, peer=peer, reason=error)
            if self._securing is not None:
                self.connection_lost(error)
            return
        if self._securing is None:
            secured.transport.abort()
            return
        self._securing, self._secure = None, True
        self._login, self._origin = "", None
        self._transport = Outlet(secured.transport, self._reception.turn)
        self._offer()
        log.debug("lmtp.tls", session=self._id, peer=peer, cipher=secured.cipher)
        self._tls_began()

    def _tls_began(self) -> None:
        """TLS is there: the client begins anew."""
        raise NotImplementedError

    def _logged_in(self) -> None:
        """The client has logged in."""
        raise NotImplementedError

    def flush(self) -> None:
        """Go on, and write the replies that are ready."""
        raise NotImplementedError

    def eof_received(self) -> bool:
        """The client sends no more: nothing more is said to it.  uvloop's TLS takes this for granted."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, or TLS did not begin on it."""
        raise NotImplementedError

    def abort(self) -> None:
        """End now."""
        if self._transport is not None:
            self._transport.abort()
        elif self._securing is not None:
            self._securing.abort()
