"""One line per event on one stream: ``ts=… level=info event=node.ready node=node1 …`` (logfmt).

Rule: an event has a stable name and its facts are fields; a line is always one line, whatever bytes a peer sent; a
field whose name says that it is a secret is never written; and nobody waits for a reader of the log that hangs.  The
stream and the level belong to the process (`setup`); loggers may be made before it, at import.
"""

from __future__ import annotations

import datetime
import enum
import os
import select
import stat
import sys
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, TextIO

from cyrusext.runtime.imports import without

with without("rich"):
    # For its console, whose colours our lines do not have, structlog loads rich and pygments: 4 MiB of each process.
    import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_SECRET = frozenset({"password", "passwd", "secret", "credentials", "initial_response", "token"})


STALL_MS = 100
"""How long a reader of the log that takes nothing is waited for, once; then lines are dropped until it reads again."""
_PIECE = 4096
"""What a pipe takes without waiting when it is writable (PIPE_BUF)."""


class _Sink:
    """Where all loggers of the process write, and from which level on."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self.threshold = LEVELS["info"]
        self._known: TextIO | None = None
        self._poll: select.poll | None = None
        self._dropped = 0

    def msg(self, line: str) -> None:
        self.put(line.encode("utf-8", "backslashreplace"))

    def put(self, lines: bytes) -> None:
        stream = self.stream or sys.stderr
        try:
            if stream is not self._known:
                self._known, self._poll = stream, _poll_of(stream)
            if self._poll is None:
                stream.write(lines.decode("utf-8", "backslashreplace"))
                stream.flush()
            else:
                self._write_waiting(self._poll, stream.fileno(), lines)
        except (OSError, ValueError):
            # Nobody reads our log any more (closed pipe, full disk): the mail goes on without it.
            return

    def _write_waiting(self, poll: select.poll, fd: int, data: bytes) -> None:
        """Write to what can keep a writer waiting: a pager, a stopped terminal, a journal that hangs."""
        if self._dropped:
            told = _render(None, "", _stamp(None, "warning", {"event": "log.dropped", "lines": self._dropped}))
            data = told.encode() + data
        for start in range(0, len(data), _PIECE):
            if not poll.poll(0 if self._dropped else STALL_MS):
                self._dropped += 1
                return
            os.write(fd, data[start : start + _PIECE])
        self._dropped = 0

    debug = info = warning = error = critical = msg


_sink = _Sink()


def _poll_of(stream: TextIO) -> select.poll | None:
    """Return what tells whether `stream` takes more; None where writing does not wait (a file) or there is no fd."""
    try:
        fd = stream.fileno()
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return None
    except (OSError, ValueError):
        return None
    stream.flush()
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return poll


def format_value(value: object) -> str:
    """Return `value` as one logfmt value: quoted where needed, control and undecodable bytes escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes | bytearray | memoryview):
        text = bytes(value).decode("utf-8", "backslashreplace")
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, enum.Enum):
        text = value.name
    else:
        text = str(value)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    if not text or " " in text or "=" in text or '"' in text:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return text


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def _stamp(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    head: MutableMapping[str, Any] = {"ts": _now(), "level": method, "event": event.pop("event", "")}
    error = event.pop("exc_info", None)
    for key, value in event.items():
        head.setdefault(key, value)
    if error:
        head["traceback"] = (
            "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else (traceback.format_exc())
        )
    return head


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    fields = [f"{key}={'***' if key in _SECRET else format_value(value)}" for key, value in event.items()]
    return " ".join(fields) + "\n"


class EventLogger(structlog.BoundLoggerBase):
    """Writes events; ``bind(**fields)`` returns a logger that adds these fields to each of its events."""

    def debug(self, event: str, **fields: object) -> None:
        if _sink.threshold <= 10:
            self._proxy_to_logger("debug", event, **fields)

    def info(self, event: str, **fields: object) -> None:
        if _sink.threshold <= 20:
            self._proxy_to_logger("info", event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        if _sink.threshold <= 30:
            self._proxy_to_logger("warning", event, **fields)

    def error(self, event: str, **fields: object) -> None:
        if _sink.threshold <= 40:
            self._proxy_to_logger("error", event, **fields)

    def critical(self, event: str, **fields: object) -> None:
        self._proxy_to_logger("critical", event, **fields)

    @property
    def writes_info(self) -> bool:
        """False where `info` writes nothing."""
        return _sink.threshold <= 20

    def info_lines(self, event: str, lines: Iterable[Mapping[str, object]]) -> None:
        """Write one event several times, each time with other fields, in one write."""
        if _sink.threshold <= 20:
            now = _now()
            _sink.msg(
                "".join([_render(None, "", {"ts": now, "level": "info", "event": event, **line}) for line in lines])
            )

    def info_written(self, lines: bytes) -> None:
        """Write whole lines that the caller has made, in one write."""
        if _sink.threshold <= 20:
            _sink.put(lines)

    def bind(self, **fields: Any) -> EventLogger:
        return EventLogger(self._logger, self._processors, {**self._context, **fields})


def setup(level: str = "info", stream: TextIO | None = None) -> None:
    """Set what all loggers of this process write to (default: what sys.stderr is then) and from which level on.

    Raises KeyError for a level that is not in `LEVELS`.
    """
    _sink.threshold = LEVELS[level]
    _sink.stream = stream


def get(name: str = "") -> EventLogger:
    """Return a logger; a `name` is written with each event as the field ``part``."""
    return EventLogger(_sink, [_stamp, _render], {"part": name} if name else {})
