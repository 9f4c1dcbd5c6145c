"""The log: one line per event, nothing of a peer breaks a line, no secrets."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator

import pytest

from cyrusext.runtime import logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    logging.setup("debug", out)
    yield out
    logging.setup()


def test_an_event_is_one_line_with_time_level_and_fields_in_order(stream: io.StringIO) -> None:
    logging.get().info("node.ready", node="node1", count=3, ok=True, took_s=0.25)
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
        r"level=info event=node.ready node=node1 count=3 ok=true took_s=0.25\n",
        stream.getvalue(),
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("", '""'),
        ("a b", '"a b"'),
        ('say "x"', '"say \\"x\\""'),
        ("a=b", '"a=b"'),
        ("line\nfeed", "line\\nfeed"),
        ("\x1b[31m\u2028", "\\x1b[31m\\u2028"),
        ("\udcff", "\\udcff"),
        (b"user.\xff\r", "user.\\xff\\r"),
        (None, ""),
    ],
)
def test_no_value_breaks_the_line(stream: io.StringIO, value: object, text: str) -> None:
    logging.get().info("e", v=value)
    line = stream.getvalue()
    assert line.endswith(f" v={text}\n")
    assert line.count("\n") == 1


def test_what_is_named_a_secret_is_not_written(stream: io.StringIO) -> None:
    logging.get().bind(password="hunter2").warning("login", initial_response=b"\0u\0hunter2", secret="hunter2")
    assert "hunter2" not in stream.getvalue()
    assert "password=***" in stream.getvalue()


def test_the_level_holds_for_loggers_made_before(stream: io.StringIO) -> None:
    log = logging.get("router")
    log.debug("one")
    logging.setup("error", stream)
    log.warning("two")
    log.error("three")
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["event=one", "event=three"]
    assert "part=router" in stream.getvalue()


def test_a_traceback_stays_on_the_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("so\nwhat")
    except ValueError as error:
        logging.get().error("failed", exc_info=error)
    assert stream.getvalue().count("\n") == 1
    assert "ValueError" in stream.getvalue()


def test_a_closed_stream_stops_nobody() -> None:
    out = io.StringIO()
    logging.setup("info", out)
    try:
        out.close()
        logging.get().info("e")
    finally:
        logging.setup()


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(KeyError):
        logging.setup("loud")


def test_a_field_never_hides_what_a_line_begins_with(stream: io.StringIO) -> None:
    logging.get().info("e", level="debug", ts="never")
    assert " level=info event=e\n" in stream.getvalue()
    assert "never" not in stream.getvalue()


def test_a_reader_that_hangs_costs_lines_and_no_time() -> None:
    readable, writable = os.pipe()
    with os.fdopen(readable, "rb", buffering=0) as reader, os.fdopen(writable, "w") as out:
        logging.setup("info", out)
        try:
            for number in range(5000):  # several times what the pipe holds: it would never return
                logging.get().info("e", number=number, filler="x" * 100)
            held = reader.read(1 << 20)
            logging.get().info("again")
            after = reader.read(1 << 20).decode().splitlines()
        finally:
            logging.setup()
    kept = held.decode().splitlines()
    assert all(" event=e number=" in line for line in kept)
    assert f" event=log.dropped lines={5000 - len(kept)}" in after[0]
    assert after[1].endswith(" event=again")
