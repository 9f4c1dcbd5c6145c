"""The tables of benchmarks/lookup.py: every engine, Python, and each target with what was measured for it.

Rule: a target's row has both sides from the same run; the limit is what memory itself did in it, and where that is
above a target the row says so: slow memory is no slow library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from benchmarks.rig.engines import Figures

TABLE, LARGE, STORE = "ours, hot table", "ours, hot table, tmpfs with huge=always", "ours, store"
LOOKUP, FETCH, LMDB = "Cyrus' mboxlist_lookup", "Cyrus' cyrusdb_fetch, twoskip", "LMDB"
PYTHON, PYTHON_MANY = "cyrusext.Index.lookup", "cyrusext.Index.lookup_many, 256"
PY_LMDB, DICT = "py-lmdb, transaction held", "dict, in this process"
FULL = 10_000_000
"""From how many names on the targets for the store, Python and the rebuild count."""


class Found(NamedTuple):
    """What was measured with one number of names."""

    records: int
    engines: Mapping[str, Figures]
    python: Mapping[str, Figures]
    node: Figures
    limit: Figures
    limit_large: Figures

    @property
    def has_store(self) -> bool:
        return STORE in self.engines


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def ns(value: float) -> str:
    return f"{value:,.1f} ns" if value < 100 else f"{value:,.0f} ns"


def c_table(found: Found) -> list[str]:
    figures = found.engines
    peer = figures.get(LOOKUP)
    heads = ("", "mboxlist_lookup takes", "alone p50, ns", "p99", "loop, ns", "absent, ns", "batch, ns")
    lines = [row(*heads, "two processes", "bytes"), row(*["---"] * 9)]
    for label, one in figures.items():
        lines.append(
            row(
                label,
                f"{peer['p50_ns'] / one['p50_ns']:,.1f}×" if peer else "–",
                *(f"{one[figure]:,.0f}" for figure in ("p50_ns", "p99_ns", "loop_ns", "absent_ns")),
                f"{one['batch_ns']:,.0f}" if one["batch_ns"] else "–",
                f"{one['two_processes']:.2f}×",
                f"{one['bytes']:,.1f}",
            )
        )
    return lines


def python_table(found: Found) -> list[str]:
    ours = found.python[PYTHON]["ns"]
    lines = [row("", "takes", "ns a look-up", "absent, ns"), row(*["---"] * 4)]
    for label, one in found.python.items():
        absent = f"{one['absent_ns']:,.0f}" if "absent_ns" in one else "–"
        lines.append(row(label, f"{one['ns'] / ours:.2f}×", f"{one['ns']:,.0f}", absent))
    return lines


def limits(found: Found) -> str:
    """A sentence on what memory itself does."""

    def one(name: str, limit: Figures) -> str:
        return (
            f"with pages of {name} {limit['dependent_ns']:.0f} ns where each access waits for the last,"
            f" {limit['p50_ns']:.0f} ns alone as the others are taken, {limit['independent_ns']:.0f} ns overlapped"
        )

    size = found.limit["bytes"] / 1e6
    return (
        f"The physical limit, one line of 64 bytes out of {size:,.0f} MB, as large as the table:"
        f" {one('4 KiB', found.limit)}; {one('2 MiB', found.limit_large)}."
    )


class Target(NamedTuple):
    """One row; `ratio` above 1 is in favour of ours, or empty."""

    label: str
    target: str
    ours: str
    beside: str = "–"
    ratio: float | None = None
    limit: str = "–"
    """What memory allows in this run, for a target in nanoseconds."""

    def line(self) -> str:
        ratio = "–" if self.ratio is None else f"{self.ratio:.2f}×"
        return row(self.label, ratio, self.target, self.ours, self.beside, self.limit)


def target_table(found: Found) -> list[str]:
    head = [row("", "beside / ours", "target", "ours", "beside it", "limit of this machine"), row(*["---"] * 6)]
    rows = [*_against_memory(found), *_counted(found), *_against_cyrus(found), *_of_the_node(found)]
    return [*head, *(each.line() for each in [*rows, *_large_only(found)])]


def _timed(label: str, target: str, ours: float, name: str, beside: float, limit: str = "–") -> Target:
    return Target(label, target, ns(ours), f"{ns(beside)} ({name})", beside / ours, limit)


def _limited(label: str, target: float, ours: float, name: str, beside: float, *limits: tuple[str, float]) -> Target:
    """A target in nanoseconds with what memory itself takes in the same run: no library is faster than that."""
    words = [f"{ns(limit)} {how}{', above the target' if limit > target else ''}" for how, limit in limits]
    return _timed(label, f"≤ {target:,.0f} ns", ours, name, beside, "; ".join(words) or "–")


def _overlapped(found: Found) -> tuple[str, float]:
    return "overlapped", found.limit_large["independent_ns"]


def _one_by_one(found: Found) -> tuple[str, float]:
    return "where each access waits for the last", found.limit_large["dependent_ns"]


def _against_memory(found: Found) -> list[Target]:
    # The node asks for large pages on every tmpfs, so what memory does with them is the limit of both.
    small, large, limit = found.engines[TABLE], found.engines[LARGE], found.limit_large
    target, miss = "≤ a miss + 20 ns", "a dependent access, 2 MiB pages"
    overlapped = ("overlapped accesses", limit["independent_ns"])
    return [
        _timed("table, alone p50", target, small["p50_ns"], miss, limit["dependent_ns"]),
        _timed("table, alone p50, huge=always", target, large["p50_ns"], miss, limit["dependent_ns"]),
        _limited("table, loop", 80, small["loop_ns"], *overlapped, _overlapped(found), _one_by_one(found)),
        _limited("table, batches of 256", 20, small["batch_ns"], *overlapped, _overlapped(found)),
    ]


def _counted(found: Found) -> list[Target]:
    size = "≤ 13.1" if found.records >= FULL else ""
    return [
        Target("cache lines a hit, counted", "≤ 1.10", f"{found.node['lines_hit']:.3f}"),
        Target("cache lines an absent name, counted", "≤ 1.25", f"{found.node['lines_absent']:.3f}"),
        Target("of a million names, asked of the store", "", f"{found.node['asked']:.0f}"),
        Target("bytes a mailbox, table", size, f"{found.node['bytes_per_key']:.2f}"),
        Target("table, two processes", "≥ 1.8 × one", f"{found.engines[TABLE]['two_processes']:.2f}"),
    ]


def _against_cyrus(found: Found) -> list[Target]:
    rows = []
    for ours, least in ((TABLE, 30), (STORE, 4)):
        for peer in (LOOKUP, FETCH):
            if peer in found.engines and ours in found.engines:
                for figure, how in (("p50_ns", "alone p50"), ("loop_ns", "loop")):
                    mine, other = found.engines[ours][figure], found.engines[peer][figure]
                    target = f"≥ {least}×" if peer == LOOKUP else ""
                    rows.append(_timed(f"{ours.removeprefix('ours, ')}, {how}", target, mine, peer, other))
    return rows


def _of_the_node(found: Found) -> list[Target]:
    node = found.node
    beside = f"{node['reads_per_s']:,.0f} look-ups a second beside it, all right"
    rebuild = "≤ 6 s" if found.records == FULL else ""
    changes = [
        Target(
            "changes of the table a second, beside a reader", "≥ 5,000,000", f"{node['updates_per_s']:,.0f}", beside
        ),
        Target("the same, beside nobody", "", f"{node['updates_alone_per_s']:,.0f}"),
    ]
    if not found.has_store:
        return changes
    return [
        *changes,
        Target("the table built anew", rebuild, f"{node['rebuild_s']:.2f} s"),
        Target(
            "a change seen by another process after its commit, p99",
            "< 1 ms",
            f"{node['visible_p99_ns'] / 1e6:.3f} ms",
            f"p50 {node['visible_p50_ns'] / 1e6:.3f} ms, highest {node['visible_max_ns'] / 1e6:.3f} ms;"
            f" from the call of commit p50 {node['called_p50_ns'] / 1e6:.3f} ms,"
            f" p99 {node['called_p99_ns'] / 1e6:.3f} ms",
        ),
    ]


def _large_only(found: Found) -> Sequence[Target]:
    if found.records < FULL or not found.has_store:
        return []
    store, lmdb, python = found.engines[STORE], found.engines[LMDB], found.python
    peer = DICT if DICT in python else PY_LMDB
    beside = (peer, python[peer]["ns"])
    return [
        _timed("store, alone p50", "≤ 2,000 ns", store["p50_ns"], "LMDB by itself", lmdb["p50_ns"]),
        _timed("store, loop", "≤ 2,000 ns", store["loop_ns"], "LMDB by itself", lmdb["loop_ns"]),
        _limited("Python, one", 150, python[PYTHON]["ns"], *beside, _overlapped(found), _one_by_one(found)),
        _limited("Python, batches of 256", 45, python[PYTHON_MANY]["ns"], *beside, _overlapped(found)),
    ]
