"""An LMTP client for tests that keeps every reply as it came (the standard library's stops at the first refusal)."""

from __future__ import annotations

import socket
import ssl
from typing import NamedTuple, Self


class Reply(NamedTuple):
    """One reply, all of its lines."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


class Result(NamedTuple):
    """What became of one message: the reply to MAIL, to each RCPT in order, and the last word for each of them."""

    mail: Reply
    rcpt: list[Reply]
    final: list[Reply]
    """For each recipient: the reply after the data, or the refusal of its RCPT."""


class Lmtp:
    """One connection, greeted and LHLO'ed."""

    def __init__(self, address: str, port: int, *, timeout_s: float = 60.0, hello: str = "LHLO") -> None:
        self._socket = socket.create_connection((address, port), timeout=timeout_s)
        self._file = self._socket.makefile("rb")
        self._hello = hello
        try:
            self.greeting = self.reply()
            self.capabilities = self.command(f"{hello} client.lab")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def send(self, raw: bytes) -> None:
        self._socket.sendall(raw)

    def reply(self) -> Reply:
        """Read one reply; raises ConnectionError at the end of the connection."""
        lines: list[str] = []
        while True:
            line = self._file.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError(f"the connection ended after {lines} {line!r}")
            lines.append(line.decode(errors="replace").rstrip("\r\n"))
            if line[3:4] != b"-":
                return Reply(int(line[:3]), tuple(lines))

    def command(self, line: str) -> Reply:
        self.send(line.encode() + b"\r\n")
        return self.reply()

    def starttls(self, context: ssl.SSLContext, name: str) -> None:
        """Go on under TLS with the server of this name, LHLO'ed anew."""
        reply = self.command("STARTTLS")
        assert reply.code == 220, reply
        self._file.close()
        self._socket = context.wrap_socket(self._socket, server_hostname=name)
        self._file = self._socket.makefile("rb")
        self.capabilities = self.command(f"{self._hello} client.lab")

    def deliver(self, sender: str, recipients: list[str], message: bytes) -> Result:
        """Send one message (with CRLF line ends) to `recipients`, one command at a time."""
        mail = self.command(f"MAIL FROM:<{sender}>")
        rcpt = [self.command(f"RCPT TO:<{recipient}>") for recipient in recipients]
        taken = [reply for reply in rcpt if reply.code // 100 == 2]
        if not taken:
            self.command("RSET")
            return Result(mail, rcpt, list(rcpt))
        go_ahead = self.command("DATA")
        assert go_ahead.code == 354, go_ahead
        stuffed = message.replace(b"\r\n.", b"\r\n..")
        self.send((b"." if message.startswith(b".") else b"") + stuffed + b".\r\n")
        return Result(mail, rcpt, [self.reply() if reply.code // 100 == 2 else reply for reply in rcpt])


def message(subject: str, body: bytes = b"hello\r\n", **headers: str) -> bytes:
    """Return a small message with CRLF line ends and a Message-ID made of its subject."""
    fields = {
        "From": "sender@example.net",
        "To": "somebody@example.org",
        "Subject": subject,
        "Message-ID": f"<{subject}@client.lab>",
        "Date": "Mon, 23 Nov 2026 20:00:00 +0000",  # Cyrus adds one to a message without
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return b"".join(f"{name}: {value}\r\n".encode() for name, value in fields.items()) + b"\r\n" + body
