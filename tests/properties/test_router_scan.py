"""The scan of a body agrees with a plain reading of RFC 5321, wherever the chunks are cut."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmtp_router.protocol._scan import BodyScanner, choose_instructions

_PIECES = st.sampled_from(
    [
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b"\0",
        b"a",
        b"\r\n.",
        b"\r\n.\r",
        b".\r\n",
        b"x" * 63,
        b"y" * 64,
        b"z" * 70 + b"\r\n",
    ]
)
BODIES = st.lists(_PIECES, max_size=40).map(b"".join)
CUTS = st.lists(st.integers(1, 80), min_size=1, max_size=10)


@pytest.fixture(params=[True, False], ids=["widest", "plain"], autouse=True, scope="module")
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to scan; a processor without AVX2 has one."""
    choose_instructions(request.param)
    yield
    choose_instructions(True)


def plain_end(data: bytes) -> int:
    """The offset behind CRLF.CRLF, where the CRLF before the body counts; -1 for none."""
    found = (b"\r\n" + data).find(b"\r\n.\r\n")
    return -1 if found < 0 else found + 3


def is_bare(message: bytes) -> bool:
    return re.search(rb"(?<!\r)\n|\r(?!\n)", message) is not None


def unstuff(wire: bytes) -> bytes:
    return b"\r\n".join(line.removeprefix(b".") for line in wire.split(b"\r\n"))


def run(data: bytes, cuts: list[int], *, replace: bool = False) -> tuple[int, bytes, BodyScanner]:
    """Scan `data` in chunks; the end as an offset in `data`, and what was passed on."""
    scanner = BodyScanner(replace)
    passed, at, turn = b"", 0, 0
    while at < len(data):
        chunk = data[at : at + cuts[turn % len(cuts)]]
        turn += 1
        # A prefix in front of the offset must not matter.
        end, octets = scanner.feed(b"#" + chunk, 1)
        passed += octets
        if end >= 0:
            return at + end - 1, passed, scanner
        at += len(chunk)
    return -1, passed, scanner


@given(BODIES, CUTS)
@example(b"x" * 64 + b"\r\n.\r\n", [64])
@example(b"x" * 62 + b"\r\n.\r\n", [200])
@example(b"\r\n.\r.\r\n", [1])
def test_end_and_flags(body: bytes, cuts: list[int]) -> None:
    data = body + b"\r\n.\r\ntrailing\0\r\n.\r\n"
    end, passed, scanner = run(data, cuts)
    assert end == plain_end(data)
    message = data[: end - 3]
    assert passed == message
    assert scanner.bare_newline is is_bare(message)
    assert scanner.nul is (b"\0" in message)


@given(BODIES, CUTS)
def test_without_an_end_nothing_but_a_possible_one_is_held_back(body: bytes, cuts: list[int]) -> None:
    if plain_end(body) >= 0:
        return
    end, passed, _ = run(body, cuts)
    assert end == -1
    assert body.startswith(passed)
    assert body[len(passed) :] in (b"", b".", b".\r")


@given(BODIES, CUTS)
def test_replaced_newlines(body: bytes, cuts: list[int]) -> None:
    data = body + b"\r\n.\r\ntrailing"
    end, passed, scanner = run(data, cuts, replace=True)
    assert end == plain_end(data)
    message = data[: end - 3]
    assert scanner.bare_newline is is_bare(message)
    assert not is_bare(passed)
    assert b"." not in passed.split(b"\r\n"), "an end of data was made"
    assert unstuff(passed) == re.sub(rb"\r\n|\r|\n", b"\r\n", unstuff(message))
    if not is_bare(message):
        assert passed.replace(b"\r\n.", b"\r\n") == message.replace(b"\r\n.", b"\r\n")


def test_the_widest_instructions_are_used() -> None:
    """What the kernel says of the processor decides, and nothing else."""
    flags = re.search(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    assert choose_instructions(True) is (flags is not None and " avx2 " in f"{flags[1]} ")
    assert choose_instructions(False) is False
