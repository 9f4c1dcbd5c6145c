"""The Received field that is written before a message (RFC 5321 section 4.4, RFC 3848, RFC 6531 section 4.3).

Rule: what a client said of itself is written only where it is a domain or an address literal; everything else would be
somebody else's header.
"""

from __future__ import annotations

import re

from lmtp_router.protocol.identity import Origin

_DOMAIN = re.compile(r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9_])?|\[[A-Za-z0-9.:]{1,64}\])\Z")


def with_protocol(*, smtp: bool, extended: bool, utf8: bool, secure: bool, login: bool) -> str:
    """Return the name of how a message came: ``LMTP``, ``ESMTPSA``, ``UTF8SMTPS`` …"""
    name = ("UTF8SMTP" if utf8 else "ESMTP" if extended else "SMTP") if smtp else "UTF8LMTP" if utf8 else "LMTP"
    return name if name == "SMTP" else f"{name}{'S' if secure else ''}{'A' if login else ''}"


def build_received(origin: Origin, hostname: str, protocol: str, ident: str) -> bytes:
    """Return the field up to its date, which is to follow with CRLF; `ident` names the session in our log."""
    helo = origin.helo if _DOMAIN.match(origin.helo) else "unknown"
    name = f"{origin.name} " if _DOMAIN.match(origin.name) else ""
    literal = f"IPv6:{origin.address}" if ":" in origin.address else origin.address
    address = f"[{literal}]" if literal else "local"
    text = f"Received: from {helo} ({name}{address})\r\n\tby {hostname} (cyrusext) with {protocol} id {ident};\r\n\t"
    return text.encode("ascii")
