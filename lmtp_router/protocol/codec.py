"""Octets to commands and replies, and back (RFC 2033, RFC 5321 section 4.1).

Rule: one line in, one command or one refusal out; whatever the octets are, nothing else is raised.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable

from cyrusext.errors import RemoteProtocolError
from lmtp_router.protocol._plain import plain_command
from lmtp_router.protocol.types import Command, Data, Lhlo, Mail, Noop, Quit, Rcpt, Refused, Reply, Rset, Vrfy, reply

MAX_PATH = 2 + 64 + 1 + 255 + 1024
"""Longest path in octets: brackets, local part and domain (RFC 5321 section 4.5.3.1) with room for a source route."""
MAX_REPLY_LINES = 128
MAX_KNOWN_REPLIES = 16
MAX_REPLY_LINE = 2048
"""Longest line of a backend's reply that is believed (RFC 5321 section 4.5.3.1.5 asks for 512)."""

SYNTAX = reply(501, "5.5.4 Syntax error in parameters")
BAD_PATH = reply(501, "5.1.7 Bad reverse-path syntax")
BAD_RCPT = reply(501, "5.1.3 Bad recipient path syntax")
NOT_ASCII = reply(553, "5.6.7 Address needs SMTPUTF8, which is not offered")
UNKNOWN = reply(500, "5.5.1 Command unknown")
IS_LMTP = reply(500, "5.5.1 This is LMTP: use LHLO")
BAD_LINE = reply(500, "5.5.2 Line has a NUL, a bare CR or a bare LF")
LONG_LINE = reply(500, "5.5.2 Line too long")
UNKNOWN_PARAMETER = reply(555, "5.5.4 Parameter not recognised or not implemented")
TWICE = reply(501, "5.5.4 Parameter given twice")
BAD_SIZE = reply(501, "5.5.4 SIZE is not a number")
BAD_BODY = reply(501, "5.5.4 BODY is neither 7BIT nor 8BITMIME")

# A path: quoted strings may hold blanks and brackets, nothing else may; 8-bit octets get a reply of their own.
_PATH = re.compile(
    rb'<((?:"(?:[^"\\\x00-\x1f\x7f]|\\[^\x00-\x1f\x7f])*"|[^<>"\x00-\x20\x7f])*)>(?: (.*))?\Z', re.DOTALL
)
_ESMTP_VALUE = re.compile(rb"[\x21-\x3c\x3e-\x7e]+\Z")
_DIGITS = re.compile(rb"[0-9]{1,20}\Z")


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
    if len(address) > MAX_PATH:
        return Refused(bad)
    if not address.isascii():
        return Refused(NOT_ASCII)
    if address.startswith(b"@"):
        # RFC 5321 appendix C: a source route is accepted and ignored.
        _, colon, address = address.partition(b":")
        if not colon or not address:
            return Refused(bad)
    return address, match[2] or b""


def _parse_parameters(raw: bytes) -> dict[bytes, bytes] | Refused:
    parameters: dict[bytes, bytes] = {}
    for word in raw.split():
        key, equals, value = word.partition(b"=")
        key = key.upper()
        if key in parameters:
            return Refused(TWICE)
        if equals and not _ESMTP_VALUE.match(value):
            return Refused(SYNTAX)
        parameters[key] = value
    return parameters


def _parse_mail(argument: bytes) -> Mail | Refused:
    found = _parse_path(argument, b"FROM:", BAD_PATH)
    if isinstance(found, Refused):
        return found
    address, raw = found
    path = b"<%b>" % address
    if not raw:
        return Mail(path)
    parameters = _parse_parameters(raw)
    if isinstance(parameters, Refused):
        return parameters
    size = parameters.pop(b"SIZE", b"0")
    body = parameters.pop(b"BODY", b"").upper()
    if parameters:
        return Refused(UNKNOWN_PARAMETER)
    if not _DIGITS.match(size):
        return Refused(BAD_SIZE)
    if body not in (b"", b"7BIT", b"8BITMIME"):
        return Refused(BAD_BODY)
    return Mail(path, int(size), body)


def _parse_rcpt(argument: bytes) -> Rcpt | Refused:
    found = _parse_path(argument, b"TO:", BAD_RCPT)
    if isinstance(found, Refused):
        return found
    address, raw = found
    if not address:
        return Refused(BAD_RCPT)
    if raw:
        parameters = _parse_parameters(raw)
        if isinstance(parameters, Refused):
            return parameters
        # Quirk: DSN is not offered, but Dovecot adds ORCPT when it rewrites an address; Cyrus would refuse it with 501.
        parameters.pop(b"ORCPT", None)
        if parameters:
            return Refused(UNKNOWN_PARAMETER)
    return Rcpt(b"<%b>" % address)


def _parse_lhlo(argument: bytes) -> Lhlo | Refused:
    domain = argument.strip()
    if not domain or b" " in domain or len(domain) > 255 or not domain.isascii():
        return Refused(SYNTAX)
    return Lhlo(domain)


def _parse_vrfy(argument: bytes) -> Vrfy | Refused:
    return Vrfy(argument.strip()) if argument.strip() else Refused(SYNTAX)


def _parse_bare(command: Data | Rset | Quit) -> Callable[[bytes], Command | Refused]:
    return lambda argument: Refused(SYNTAX) if argument.strip() else command


_VERBS: dict[bytes, Callable[[bytes], Command | Refused]] = {
    b"LHLO": _parse_lhlo,
    b"MAIL": _parse_mail,
    b"RCPT": _parse_rcpt,
    b"DATA": _parse_bare(Data()),
    b"RSET": _parse_bare(Rset()),
    b"QUIT": _parse_bare(Quit()),
    b"NOOP": lambda _: Noop(),
    b"VRFY": _parse_vrfy,
    b"EHLO": lambda _: Refused(IS_LMTP),
    b"HELO": lambda _: Refused(IS_LMTP),
}


def build_mail(mail: Mail, extensions: frozenset[bytes]) -> bytes:
    """MAIL for a backend with `extensions`: SIZE, a hint, is left out where unknown; BODY has to be checked before."""
    line = b"MAIL FROM:" + mail.path
    if mail.size and b"SIZE" in extensions:
        line += b" SIZE=%d" % mail.size
    if mail.body and b"8BITMIME" in extensions:
        line += b" BODY=" + mail.body
    return line + b"\r\n"


def build_rcpt(path: bytes) -> bytes:
    """RCPT with the path as the client wrote it."""
    return b"RCPT TO:%b\r\n" % path


def build_auth_plain(user: str, password: str) -> bytes:
    """AUTH PLAIN with its initial response (RFC 4616 section 2)."""
    return b"AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()) + b"\r\n"


def parse_extensions(answer: Reply) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Return the keywords and the AUTH mechanisms of a reply to LHLO (RFC 5321 4.1.1.1, RFC 4954 section 3)."""
    words = [line.upper().split() for line in answer.lines[1:]]
    mechanisms = frozenset(name for line in words if line and line[0] == b"AUTH" for name in line[1:])
    return frozenset(line[0] for line in words if line), mechanisms


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
