"""Octets to commands and replies, and back (RFC 2033, RFC 5321 section 4.1); parameters are in parameters.py.

Rule: one line in, one command or one refusal out; whatever the octets are, nothing else is raised.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from cyrusext.errors import RemoteProtocolError
from lmtp_router.protocol import parameters
from lmtp_router.protocol._plain import plain_command
from lmtp_router.protocol.identity import XCLIENT, XFORWARD, parse_attributes
from lmtp_router.protocol.login import parse_auth
from lmtp_router.protocol.parameters import SYNTAX
from lmtp_router.protocol.types import (
    Bdat,
    Command,
    Data,
    Ehlo,
    Helo,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Refused,
    Reply,
    Rset,
    Starttls,
    Vrfy,
    Xclient,
    Xforward,
    reply,
)

END_OF_DATA = b".\r\n"
MAX_PATH = 2 + 64 + 1 + 255 + 1024
"""Longest path in octets: brackets, local part and domain (RFC 5321 section 4.5.3.1) with room for a source route."""
MAX_REPLY_LINES = 128
MAX_KNOWN_REPLIES = 16
MAX_REPLY_LINE = 2048
"""Longest line of a backend's reply that is believed (RFC 5321 section 4.5.3.1.5 asks for 512)."""

BAD_PATH = reply(501, "5.1.7 Bad reverse-path syntax")
BAD_RCPT = reply(501, "5.1.3 Bad recipient path syntax")
NOT_ASCII = reply(553, "5.6.7 Address is not ASCII, and MAIL did not say SMTPUTF8")
BAD_ATTRIBUTES = reply(501, "5.5.4 Bad attribute or value")
UNKNOWN = reply(500, "5.5.1 Command unknown")
BAD_LINE = reply(500, "5.5.2 Line has a NUL, a bare CR or a bare LF")
BAD_BDAT = reply(501, "5.5.4 BDAT takes a number and LAST, closing connection")
LONG_LINE = reply(500, "5.5.2 Line too long")

# A path: quoted strings may hold blanks and brackets, nothing else may.
_PATH = re.compile(
    rb'<((?:"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*"|[^<>"\x00-\x20\x7f])*)>(?: (.*))?\Z', re.DOTALL
)

_BDAT = re.compile(rb"([0-9]{1,20})(?: +(LAST))? *\Z", re.IGNORECASE)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"(@.*)?\Z', re.DOTALL)
_ATOM = rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]+"
_DOT_STRING = re.compile(rb"%b(?:\.%b)*\Z" % (_ATOM, _ATOM))
_PAIR = re.compile(rb"\\(.)", re.DOTALL)


def parse_command(line: bytes) -> Command | Refused:
    """Parse a command `line` that came without its CRLF."""
    plain = plain_command(line)
    if plain is not None:
        return plain
    if b"\0" in line or b"\r" in line or b"\n" in line:
        return Refused(BAD_LINE)
    verb, _, argument = line.partition(b" ")
    parse = _VERBS.get(verb.upper())
    return Refused(UNKNOWN) if parse is None else parse(argument)


def _parse_path(argument: bytes, prefix: bytes, bad: Reply) -> tuple[bytes, bytes] | Refused:
    """Return the address inside the brackets without a source route, and the octets of the parameters."""
    if argument[: len(prefix)].upper() != prefix:
        return Refused(SYNTAX)
    match = _PATH.match(argument, len(prefix))
    if match is None:
        return Refused(bad)
    address: bytes = match[1]
    if len(address) > MAX_PATH or not (address.isascii() or parameters.is_utf8(address)):
        return Refused(bad)
    if address.startswith(b"@"):
        # RFC 5321 appendix C: a source route is accepted and ignored.
        _, colon, address = address.partition(b":")
        if not colon or not address:
            return Refused(bad)
    return address, match[2] or b""


def _parse_mail(argument: bytes) -> Mail | Refused:
    found = _parse_path(argument, b"FROM:", BAD_PATH)
    if isinstance(found, Refused):
        return found
    address, raw = found
    path = b"<%b>" % address
    mail = parameters.mail_with(path, raw) if raw else Mail(path)
    if isinstance(mail, Mail) and not address.isascii() and parameters.SMTPUTF8 not in mail.needs:
        return Refused(NOT_ASCII)
    return mail


def _parse_rcpt(argument: bytes) -> Rcpt | Refused:
    found = _parse_path(argument, b"TO:", BAD_RCPT)
    if isinstance(found, Refused):
        return found
    address, raw = found
    if not address:
        return Refused(BAD_RCPT)
    path = b"<%b>" % (_unquoted(address) if address.startswith(b'"') else address)
    return parameters.rcpt_with(path, raw) if raw else Rcpt(path)


def _unquoted(address: bytes) -> bytes:
    """Return `address` without quotes that it does not need (RFC 5321 section 4.1.2 asks for the least quoting).

    They change nothing in what is meant, but Cyrus takes them for a part of the user's name.
    """
    match = _QUOTED.match(address)
    if match is None:
        return address
    local = _PAIR.sub(rb"\1", match[1])
    return local + (match[2] or b"") if _DOT_STRING.match(local) else address


def _parse_hello(hello: type[Lhlo | Ehlo | Helo]) -> Callable[[bytes], Command | Refused]:
    def parse(argument: bytes) -> Command | Refused:
        domain = argument.strip()
        if not domain or b" " in domain or len(domain) > 255 or not domain.isascii():
            return Refused(SYNTAX)
        return hello(domain)

    return parse


def _parse_vrfy(argument: bytes) -> Vrfy | Refused:
    return Vrfy(argument.strip()) if argument.strip() else Refused(SYNTAX)


def _parse_xclient(argument: bytes) -> Xclient | Refused:
    attributes = parse_attributes(argument, XCLIENT)
    return Refused(BAD_ATTRIBUTES) if attributes is None else Xclient(attributes)


def _parse_xforward(argument: bytes) -> Xforward | Refused:
    attributes = parse_attributes(argument, XFORWARD)
    return Refused(BAD_ATTRIBUTES) if attributes is None else Xforward(attributes)


def _parse_bdat(argument: bytes) -> Bdat | Refused:
    match = _BDAT.match(argument)
    # Nobody knows how many octets of a message follow, so no command can follow.
    return Bdat(int(match[1]), match[2] is not None) if match is not None else Refused(BAD_BDAT, close=True)


def _parse_bare(command: Data | Rset | Starttls | Quit) -> Callable[[bytes], Command | Refused]:
    return lambda argument: Refused(SYNTAX) if argument.strip() else command


_VERBS: dict[bytes, Callable[[bytes], Command | Refused]] = {
    b"LHLO": _parse_hello(Lhlo),
    b"EHLO": _parse_hello(Ehlo),
    b"HELO": _parse_hello(Helo),
    b"MAIL": _parse_mail,
    b"RCPT": _parse_rcpt,
    b"DATA": _parse_bare(Data()),
    b"BDAT": _parse_bdat,
    b"RSET": _parse_bare(Rset()),
    b"QUIT": _parse_bare(Quit()),
    b"STARTTLS": _parse_bare(Starttls()),
    b"AUTH": parse_auth,
    b"XCLIENT": _parse_xclient,
    b"XFORWARD": _parse_xforward,
    b"NOOP": lambda _: Noop(),
    b"VRFY": _parse_vrfy,
}


def build_mail(mail: Mail, extensions: frozenset[bytes]) -> bytes:
    """MAIL for a backend with `extensions`: SIZE, a hint, is left out where unknown; BODY has to be checked before."""
    line = b"MAIL FROM:" + mail.path
    if mail.size and b"SIZE" in extensions:
        line += b" SIZE=%d" % mail.size
    if mail.body and b"8BITMIME" in extensions:
        line += b" BODY=" + mail.body
    return line + mail.parameters + b"\r\n" if mail.parameters else line + b"\r\n"


def build_rcpt(path: bytes) -> bytes:
    """RCPT with the path, and the parameters that follow it, as the client wrote them."""
    return b"RCPT TO:%b\r\n" % path


def build_auth_plain(user: str, password: str) -> bytes:
    """AUTH PLAIN with its initial response (RFC 4616 section 2)."""
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\r\n"


AUTH_EXTERNAL = b"AUTH EXTERNAL =\r\n"
"""AUTH EXTERNAL with an empty initial response: we are whom our certificate names (RFC 4954 section 4)."""


def parse_extensions(answer: Reply) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the keywords and the AUTH mechanisms of a reply to LHLO (RFC 5321 4.1.1.1, RFC 4954 section 3)."""
    words = [line.upper().split() for line in answer.lines[1:]]
    mechanisms = frozenset(name for line in words if line and line[0] == b"AUTH" for name in line[1:])
    return frozenset(line[0] for line in words if line), mechanisms


def parse_offer(answer: Reply, keyword: bytes) -> frozenset[bytes]:
    """Return what stands behind `keyword` in a reply to LHLO; nothing where it is not there."""
    words = [line.upper().split() for line in answer.lines[1:]]
    return frozenset(name for line in words if line and line[0] == keyword for name in line[1:])


class ReplyParser:
    """Turns a stream of octets into replies; bounded and strict (RFC 5321 section 4.2.1)."""

    __slots__ = ("_buffer", "_code", "_known", "_lines")

    def __init__(self) -> None:
        self._buffer = b""
        self._known: dict[bytes, Reply] = {}
        """Replies of one line that came before: a backend says the same to most recipients."""
        self._lines: list[bytes] = []
        self._code = b""

    @property
    def partial(self) -> bool:
        """True if a part of a reply is waiting for the rest."""
        return bool(self._buffer or self._lines)

    def feed(self, data: bytes) -> list[Reply]:
        """Return the replies that `data` completes.

        Raises RemoteProtocolError (fatal) for a line that is no reply line, a code that changes within one reply, a
        line ended by LF alone, a control octet, and for replies longer than `MAX_REPLY_LINES` × `MAX_REPLY_LINE`.
        """
        pieces = (self._buffer + data if self._buffer else data).split(b"\r\n")
        self._buffer = pieces.pop()
        if len(self._buffer) > MAX_REPLY_LINE:
            raise RemoteProtocolError("reply line of the backend is too long", fatal=True)
        replies = []
        for line in pieces:
            known = self._known.get(line)
            if known is not None and not self._lines:
                replies.append(known)
                continue
            code = line[:3]
            if not _is_reply_line(line) or (self._lines and code != self._code):
                # No more of it than this: the text may hold an address that the log must not.
                raise RemoteProtocolError(f"the backend sent {line[:4]!r}…, which is no reply line", fatal=True)
            self._lines.append(line)
            if line[3:4] == b"-":
                self._code = code
                if len(self._lines) >= MAX_REPLY_LINES:
                    raise RemoteProtocolError("reply of the backend has too many lines", fatal=True)
                continue
            self._lines.append(b"")
            replies.append(Reply(int(code), b"\r\n".join(self._lines)))
            if len(self._lines) == 2 and len(self._known) < MAX_KNOWN_REPLIES:
                self._known[line] = replies[-1]
            self._lines = []
        return replies


_REPLY_LINE = re.compile(rb"[2-5][0-9][0-9](?:[ -][^\x00-\x08\x0a-\x1f\x7f]*)?\Z")


def _is_reply_line(line: bytes) -> bool:
    return len(line) <= MAX_REPLY_LINE and _REPLY_LINE.match(line) is not None
