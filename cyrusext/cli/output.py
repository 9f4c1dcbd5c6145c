"""Rows of output as a table, as JSON or as tab-separated values.

Rule: a row is one line in every form but JSON, whatever bytes a name or ACL holds; JSON keeps them all.
"""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice

Cell = str | int | float | bytes | None

_SAMPLE = 1000
"""Rows that decide the width of a table's columns, so that a table of a million rows is not kept in memory."""


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[Cell]], form: str) -> int:
    """Print `rows` under `columns`; return how many there were.  An empty table has no header, empty JSON is ``[]``."""
    out = sys.stdout.buffer
    printers: dict[str, Callable[[Sequence[str], Iterable[Sequence[Cell]]], Iterable[str]]] = {
        "json": _json,
        "tsv": _tsv,
        "table": _table,
    }
    count = 0
    for line in printers[form](columns, rows):
        out.write(line.encode("utf-8", "surrogateescape" if form != "json" else "backslashreplace"))
        count += 1
    out.flush()
    return max(0, count - {"json": 2, "tsv": 0, "table": 1}[form])


def utc_time(microseconds: int) -> str:
    """Return a Unix time in microseconds as it is shown, in UTC."""
    moment = datetime.datetime.fromtimestamp(microseconds // 1_000_000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % 1_000_000:06d}Z"


def _json(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterable[str]:
    yield "["
    separator = "\n"
    for row in rows:
        record = {column: _json_value(cell) for column, cell in zip(columns, row, strict=True)}
        yield separator + json.dumps(record, ensure_ascii=False)
        separator = ",\n"
    yield "]\n" if separator == "\n" else "\n]\n"


def _tsv(_columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterable[str]:
    for row in rows:
        yield "\t".join(_line_text(cell) for cell in row) + "\n"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterable[str]:
    texts = ([_line_text(cell) for cell in row] for row in rows)
    sample = list(islice(texts, _SAMPLE))
    if not sample:
        return
    heads = [column.upper() for column in columns]
    widths = [max(len(row[index]) for row in (heads, *sample)) for index in range(len(columns))]
    for row in chain([heads], sample, texts):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() + "\n"


def _json_value(cell: Cell) -> str | int | float | None:
    return cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else cell


def _line_text(cell: Cell) -> str:
    r"""A cell without line ends and TABs: backslash, TAB, CR, LF as ``\\``, ``\t``, ``\r``, ``\n``, others as \xNN."""
    if cell is None:
        return ""
    text = cell.decode("utf-8", "surrogateescape") if isinstance(cell, bytes) else str(cell)
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    named = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}.get(character)
    if named is not None:
        return named
    if character.isprintable():
        return character
    raw = character.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in raw)
