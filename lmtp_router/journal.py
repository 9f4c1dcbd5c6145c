"""What became of each recipient, for the log and for the figures.

Rule: it is told once for each transaction, when that is over; until then counting costs the mail nothing.  Lines are
written together with those of other transactions, `WRITE_S` later at the latest, for writing each by itself would cost
more than anything else that is done for a message.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cyrusext.runtime import logging
from lmtp_router._lines import recipient_lines
from lmtp_router._passed import Sums, Taken, passed_lines
from lmtp_router.privacy import Disclosure
from lmtp_router.protocol.types import Rcpt, Reply
from lmtp_router.recipient import Recipient, Times
from lmtp_router.results import Slot
from lmtp_router.tally import PHASE_BOUNDS_S, Counts, Tally

_STATUS = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}(?= |\r)")
WRITE_S = 0.02
"""How long a line may wait for others."""
WRITE_AT = 32 << 10
"""Octets of lines that do not wait any longer."""

_FULL = Disclosure.FULL
_VERDICTS = {2: "delivered", 4: "deferred", 5: "rejected"}


class Done(NamedTuple):
    """The last word on one recipient: `size` octets of message (0 before it came), `at` on the clock of the loop."""

    recipient: Recipient
    final: Reply
    size: int
    at: float


class Journal:
    """Writes and counts what a worker's transactions come to."""

    def __init__(
        self, disclosure: Disclosure, tally: Tally | None = None, later: Callable[..., object] | None = None
    ) -> None:
        """`later` calls something after so many seconds; without it every line is written at once."""
        self._tally = tally or Tally()
        self._passed = Sums(PHASE_BOUNDS_S)
        self._disclosure = disclosure
        self._log = logging.get()
        self._later = later
        self._lines: list[bytes] = []
        self._octets = 0
        phases = self._tally.phases
        self._phases = (phases["connect"], phases["envelope"], phases["data"], phases["final"])

    @property
    def tally(self) -> Tally:
        """What was counted until now."""
        self._passed.settle(self._tally)
        return self._tally

    def note(self, session: str, mail_from: bytes, done: Sequence[Done]) -> None:
        """Tell of a transaction that is over, or of recipients whose reply came after their client had gone."""
        self._count(done)
        if not self._log.writes_info:
            return
        if self._disclosure is not Disclosure.FULL or [one for one in done if one.recipient.left_out]:
            self._log.info_lines("lmtp.recipient", [self._fields(session, mail_from, one) for one in done])
            return
        self._keep(recipient_lines("lmtp.recipient", session, mail_from, done))

    def passed(self, session: str, mail_from: bytes, parts: list[Taken], size: int) -> None:
        """Tell of a transaction that is over, in which every recipient got the message of `size` octets."""
        # It is asked for once for the lines that are written together: that costs as much as one of them.
        written = bool(self._lines) or self._log.writes_info
        if written and self._disclosure is not _FULL:
            self._tally.express += 1
            self.note(session, mail_from, [done for part in parts for done in _each(part, size)])
            return
        self._passed.count(parts, size)
        if written:
            self._keep(passed_lines("lmtp.recipient", session, mail_from, parts, size))

    def _keep(self, lines: bytes) -> None:
        """Write lines soon."""
        if not self._lines and self._later is not None:
            self._later(WRITE_S, self.flush)
        self._lines.append(lines)
        self._octets += len(lines)
        if self._later is None or self._octets >= WRITE_AT:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self._lines:
            lines, self._lines, self._octets = self._lines, [], 0
            self._log.info_written(b"".join(lines))

    def began(self) -> None:
        """A client was taken up."""
        self._tally.sessions += 1

    def refused(self, reason: str) -> None:
        """A client was not served."""
        self._tally.refused[reason] = self._tally.refused.get(reason, 0) + 1

    def _fields(self, session: str, mail_from: bytes, done: Done) -> dict[str, object]:
        recipient, final, size, at = done
        fields: dict[str, object] = {
            "session": session,
            **self._disclosure.fields(mail_from, recipient.rcpt.path),
            "backend": recipient.server,
            **({"left_out": recipient.left_out.strip()} if recipient.left_out else {}),
            "size": size,
            "reply": self._disclosure.reply(final),
            "took_ms": round((at - recipient.started) * 1000, 1),
        }
        if (times := recipient.times) is not None:
            for name, seconds in times.phases(at if size else 0.0):
                fields[name] = round(seconds * 1000, 1)
        return fields

    def _count(self, done: Sequence[Done]) -> None:
        tally = self._tally
        tally.transactions += 1
        seen: dict[int, tuple[Times, float]] = {}
        took: set[str] = set()
        largest = 0
        for recipient, final, size, at in done:
            verdict = _VERDICTS.get(final.code // 100, "deferred")
            verdicts = tally.recipients.setdefault(recipient.server, {})
            verdicts[verdict] = verdicts.get(verdict, 0) + 1
            if verdict != "delivered":
                tally.count_reject(reason_of(final))
            elif recipient.server not in took:
                took.add(recipient.server)
                tally.delivered_bytes[recipient.server] = tally.delivered_bytes.get(recipient.server, 0) + size
            largest = max(largest, size)
            if recipient.times is not None:
                seen[id(recipient.times)] = recipient.times, at
        tally.received_bytes += largest
        for times, at in seen.values():
            connect, envelope, data, last = self._phases
            if times.linked:
                _observe(connect, times.linked - times.asked)
            if times.opened:
                _observe(envelope, times.opened - times.linked)
            if times.ended:
                _observe(data, times.ended - times.opened)
                _observe(last, at - times.ended)


def _each(part: Taken, size: int) -> Iterator[Done]:
    """The recipients of a part, one by one."""
    times = Times()
    times.asked = times.linked = part.asked
    times.opened, times.ended = part.opened, part.ended
    for path, raw in zip(part.paths, part.finals, strict=True):
        recipient = Recipient(Rcpt(path), Slot(), part.asked)
        recipient.server, recipient.times = part.server, times
        yield Done(recipient, Reply(int(raw[:3]), raw), size, part.at)


def _observe(counts: Counts, seconds: float) -> None:
    counts.counts[bisect_left(PHASE_BOUNDS_S, seconds)] += 1
    counts.total += seconds


def reason_of(final: Reply) -> str:
    """Return the code and, where it has one, the enhanced status code of a reply: words may hold an address."""
    status = _STATUS.match(final.raw, 4)
    return f"{final.code} {status[0].decode()}" if status else str(final.code)
