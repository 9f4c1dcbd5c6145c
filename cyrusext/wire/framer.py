"""The framer: bytes in, whole messages out, whatever the peer sends.

Rule: a message is one line with its embedded literals, found before any grammar looks at it; literal data is never
read as a line, not even when the message around it is refused.  Memory is bounded by `Limits` plus one fed chunk.

Policies, the same for every protocol on it:

* ``{n+}`` over the limits is read past up to `Limits.drain` bytes and the message comes out `Poisoned`; announced
  beyond that it is fatal at once.  ``{n}`` over the limits is refused before any go-ahead: the message ends there.
* a line over its limit is fatal: where its end would be, and whether it announces a literal, is not waited for.
* NUL and a CR that no LF follows poison the message.  A line that ends in a bare LF is taken (Cyrus does, and so do
  people with netcat) unless `bare_lf` is False.
* literal data may be any bytes, NUL too: what a string may hold is for the protocol to say.
"""

from __future__ import annotations

from cyrusext.wire._framer import Framer
from cyrusext.wire.types import HEAD, Limits, Message, Poisoned, Problem, Signal

__all__ = ["HEAD", "Framer", "Limits", "Message", "Poisoned", "Problem", "Signal"]
