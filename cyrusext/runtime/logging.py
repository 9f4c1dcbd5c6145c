"""One line per event on one stream: ``ts=… level=info event=node.ready node=node1 …`` (logfmt).

Rule: an event has a stable name and its facts are fields; a line is always one line, whatever bytes a peer sent; and a
field whose name says that it is a secret is never written.  The stream and the level belong to the process (`setup`);
loggers may be made before it, at import.
"""

from __future__ import annotations

import datetime
import enum
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

_SECRET = frozenset({"password", "passwd", "secret", "credentials", "initial_response", "token"})


class _Sink:
    """Where all loggers of the process write, and from which level on."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self.threshold = LEVELS["info"]

    def msg(self, line: str) -> None:
        stream = self.stream or sys.stderr
        try:
            stream.write(line)
            stream.flush()
        except (OSError, ValueError):
            # Nobody reads our log any more (closed pipe, full disk): the mail goes on without it.
            return

    debug = info = warning = error = critical = msg


_sink = _Sink()


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


def _stamp(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    head: MutableMapping[str, Any] = {"ts": now[:-6] + "Z", "level": method, "event": event.pop("event", "")}
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
