"""IMAP as the tests need it: the standard library's client, logged in as anybody, plus Cyrus' XFER."""

from __future__ import annotations

import contextlib
import imaplib
import re
from typing import Any

imaplib.Commands["XFER"] = ("AUTH", "SELECTED")


class Refused(AssertionError):
    """The server answered NO or BAD; the text is its answer."""


class Imap(imaplib.IMAP4):
    """The standard library's client, but leaving the context closes the socket also when the server is gone."""

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, self.error):
            self.logout()
        with contextlib.suppress(OSError):
            self.shutdown()


def login(address: str, user: str, admin: str, password: str) -> Imap:
    """Authenticate as `user` with the administrator's password (SASL PLAIN with an authorisation identity)."""
    connection = Imap(address, 143, timeout=30)
    authorise = "" if user == admin else user
    try:
        connection.authenticate("PLAIN", lambda _: f"{authorise}\0{admin}\0{password}".encode())
    except BaseException:
        connection.shutdown()
        raise
    return connection


def ok(answer: tuple[str, list[Any]]) -> list[Any]:
    """Return the data of a tagged OK; raises Refused with the text of a NO."""
    status, data = answer
    if status != "OK":
        raise Refused(
            f"{status} {b' '.join(line for line in data if isinstance(line, bytes)).decode(errors='replace')}"
        )
    return data


def create(connection: Imap, mailbox: str, where: str = "") -> None:
    """CREATE; `where` is Cyrus' second argument: a partition, or at a frontend ``server!partition``."""
    ok(connection._simple_command("CREATE", mailbox, *([where] if where else [])))


def delete(connection: Imap, mailbox: str) -> None:
    """Give the administrator the right to delete, then DELETE."""
    ok(connection.setacl(mailbox, "cyrus", "lrswipkxtecda"))
    ok(connection.delete(mailbox))


def xfer(connection: Imap, mailbox: str, server: str) -> None:
    """Move a mailbox (a user's INBOX: with all folders) to another backend."""
    ok(connection._simple_command("XFER", mailbox, server))


def listed(connection: Imap, pattern: str = "*") -> set[str]:
    """Return the names that LIST shows, as the server writes them."""
    lines = [line for line in ok(connection.list('""', f'"{pattern}"')) if line]
    return {re.sub(rb'^\(.*?\) "?\S+?"? ', b"", line).strip(b'"').decode() for line in lines}


def messages(connection: Imap, mailbox: str = "INBOX") -> list[bytes]:
    """Return every message of a mailbox, byte by byte as stored."""
    ok(connection.select(mailbox, readonly=True))
    numbers = ok(connection.search(None, "ALL"))[0].split()
    return [ok(connection.fetch(number.decode(), "(BODY.PEEK[])"))[0][1] for number in numbers]
