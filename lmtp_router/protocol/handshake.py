"""How a connection to a backend begins, step by step: greeting, LHLO, STARTTLS, LHLO again, AUTH.

Rule: what the backend said before TLS counts for nothing after it (RFC 3207 section 4.2), and where TLS is demanded
there is no transaction without it.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from lmtp_router.protocol import codec
from lmtp_router.protocol.state import ClientInput, ClientState
from lmtp_router.protocol.types import HandshakeFailed, Ready, Reply, TlsWanted, reply

NO_TLS = reply(454, "4.7.0 STARTTLS is not offered")


class Tls(enum.Enum):
    """Whether a connection to a backend is encrypted: `[lmtp] backend_tls`."""

    OFF = "off"
    MAY = "may"
    """Where the backend offers it; nobody verifies its certificate."""
    VERIFY = "verify"
    """Always; whoever begins TLS verifies the certificate."""


class Step(NamedTuple):
    """What a reply leads to: the step of the automaton (None: it is over), octets to send, what to tell the caller."""

    move: ClientInput | None
    octets: bytes = b""
    event: Ready | TlsWanted | HandshakeFailed | None = None


class Handshake:
    """What we say until a transaction may begin.

    `credentials` are user and password for PLAIN; with `external`, our certificate says who we are (RFC 4422 appendix
    A).  A mechanism is used where the backend offers it: one that offers none trusts its peer (lmtpd -a), or will
    refuse MAIL in its own words.
    """

    __slots__ = ("_credentials", "_external", "_tls", "extensions", "hello", "secure", "xclient", "xforward")

    def __init__(
        self, hostname: str, credentials: tuple[str, str] | None = None, tls: Tls = Tls.OFF, *, external: bool = False
    ) -> None:
        self.extensions: frozenset[bytes] = frozenset()
        self.secure = False
        """TLS is there."""
        self.xforward: frozenset[bytes] = frozenset()
        """What the backend wants to hear of the client, by the names of XFORWARD."""
        self.xclient: frozenset[bytes] = frozenset()
        """What it would take our word for by XCLIENT."""
        self.hello = f"LHLO {hostname}\r\n".encode("ascii")
        self._credentials = credentials
        self._tls = tls
        self._external = external

    def take(self, state: ClientState, answer: Reply) -> Step:
        """Go on with the reply that came in `state`."""
        if state is ClientState.STARTTLS and answer.code != 220 and self._tls is Tls.MAY:
            self._tls = Tls.OFF
            return Step(ClientInput.REFUSED, self.hello)
        if answer.code != EXPECTED[state]:
            return Step(None, event=HandshakeFailed(state.value, answer))
        if state is ClientState.GREETING:
            return Step(ClientInput.GREETED, self.hello)
        if state is ClientState.LHLO:
            self.extensions, mechanisms = codec.parse_extensions(answer)
            self.xforward = codec.parse_offer(answer, b"XFORWARD")
            self.xclient = codec.parse_offer(answer, b"XCLIENT")
            if self._tls is Tls.OFF or self.secure:
                return self._log_in(mechanisms)
            if b"STARTTLS" in self.extensions:
                return Step(ClientInput.STARTTLS, b"STARTTLS\r\n")
            if self._tls is Tls.VERIFY:
                return Step(None, event=HandshakeFailed("lhlo", NO_TLS))
            return self._log_in(mechanisms)
        if state is ClientState.STARTTLS:
            return Step(ClientInput.BEGIN_TLS, event=TlsWanted())
        return Step(ClientInput.AUTHENTICATED, event=Ready())

    def secured(self) -> Step:
        """TLS is there."""
        self.secure = True
        return Step(ClientInput.SECURED, self.hello)

    def _log_in(self, mechanisms: frozenset[bytes]) -> Step:
        if self._external and self.secure and b"EXTERNAL" in mechanisms:
            return Step(ClientInput.AUTHENTICATE, codec.AUTH_EXTERNAL)
        if self._credentials is not None and b"PLAIN" in mechanisms:
            return Step(ClientInput.AUTHENTICATE, codec.build_auth_plain(*self._credentials))
        return Step(ClientInput.HELLO, event=Ready())


EXPECTED = {
    ClientState.GREETING: 220,
    ClientState.LHLO: 250,
    ClientState.STARTTLS: 220,
    ClientState.AUTH: 235,
}
"""The states of the handshake in which the backend has the word, and the code that leads on."""
