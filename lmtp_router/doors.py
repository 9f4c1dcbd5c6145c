"""The addresses at which mail is taken, and what is special about each.

Rule: what an address is stands in the configuration alone; a socket is only ever served as the door that it is.
"""

from __future__ import annotations

from typing import NamedTuple

from cyrusext.runtime.config_schema import LmtpSection


class Door(NamedTuple):
    """How clients come in at one address."""

    smtp: bool = False
    """SMTP is spoken there, not LMTP."""
    tls: bool = False
    """TLS begins at once."""


OPEN = Door()
"""LMTP, in the clear or after STARTTLS."""


def doors_of(lmtp: LmtpSection) -> dict[str, Door]:
    """Return the doors by address as the configuration writes it, the first of each, in its order."""
    texts = dict.fromkeys(lmtp.listen, False) | dict.fromkeys(lmtp.smtp_listen, True)
    return {text: Door(smtp, text in lmtp.implicit_tls) for text, smtp in texts.items()}
