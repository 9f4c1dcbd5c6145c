"""Lines so long that a backend reads them in pieces, and the one piece that it would take for the end of the message.

Rule: what is passed on ends where the client ended it, for the backend too.  Cyrus' lmtpd (3.6 and 3.10) reads a
message by pieces of at most `PIECE` octets that end at LF, and looks for the end of data at the start of each piece,
not of each line: in a line whose octets behind the first 8189 are ``.CRLF`` the message ends, and what follows are
commands (RFC 5321 section 4.1.1.4 says that only a line of its own may be).  Such a line is rare by chance and all of
an attack.
"""

from __future__ import annotations

PIECE = 8189
"""Octets that Cyrus reads of a line before it begins a new piece: its buffer of 8192, less what prot_fgets keeps."""
_END = b".\r\n"


class LongLines:
    """Looks for the false end in the octets of one message, as they are sent to the backends."""

    __slots__ = ("_carry", "_continued", "_length", "_piece")

    def __init__(self, piece: int = PIECE) -> None:
        self._piece = piece
        self._length = 0
        """Octets of the present piece that were seen."""
        self._continued = False
        """True while it is to be seen whether the present piece, which does not begin a line, begins with the end."""
        self._carry = b""
        """Its first octets, while they may be those of the end."""

    def feed(self, octets: bytes) -> bool:
        """Look at the next octets; True when they have the end of data for a backend that reads in pieces.

        One search backwards from the end of each piece: lines of mail are short, and most of it is never looked at.
        """
        if self._carry:
            octets = self._carry + octets
        size, piece = len(octets), self._piece
        start, continued = (0 if self._continued else -self._length), self._continued
        while True:
            if continued:
                head = octets[start : start + 3]
                if head == _END:
                    return True
                if len(head) < 3 and _END.startswith(head):
                    self._carry, self._continued, self._length = head, True, 0
                    return False
                continued = False
            newline = octets.rfind(b"\n", max(start, 0), min(start + piece, size))
            if newline >= 0:
                start = newline + 1
            elif start + piece <= size:
                start += piece
                continued = True
            else:
                self._carry, self._continued, self._length = b"", False, size - start
                return False
