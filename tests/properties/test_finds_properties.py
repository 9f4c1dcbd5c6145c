"""FIND in compiled code is FIND: whatever is sent, however it is cut, the answers are those of the plain way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyrusext.mupdate._finds import Finds
from cyrusext.store import Store
from fuzz import finds

tags = st.binary(max_size=4) | st.sampled_from([b"F", b"*", b"+", b"t" * 128, b"t" * 129])
names = st.sampled_from(finds.ASKED) | st.binary(max_size=5)
strings = st.one_of(
    names.map(lambda name: b"{%d+}\r\n%b" % (len(name), name)),
    names.map(lambda name: b'"%b"' % name),
    st.tuples(st.integers(0, 600), names).map(lambda pair: b"{%d+}\r\n%b" % pair),
)
commands = st.one_of(
    st.tuples(tags, strings).map(lambda pair: b"%b FIND %b\r\n" % pair),
    strings.map(lambda string: b"F find " + string + b"\r\n"),
    st.tuples(tags, st.sampled_from([b" NOOP\r\n", b" FIND\r\n", b" \r\n", b"\n"])).map(b"".join),
    st.binary(max_size=6),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with finds.open_store(tmp_path_factory.mktemp("finds")) as opened:
        yield opened


def compiled(store: Store) -> Finds:
    return Finds(store.reader)


@given(st.lists(commands, max_size=12), st.lists(st.integers(0, 5000), max_size=12))
def test_the_compiled_way_is_the_plain_way(store: Store, sent: list[bytes], edges: list[int]) -> None:
    data = b"".join(sent)
    places = [0, *sorted(edge % (len(data) + 1) for edge in edges), len(data)]
    finds.check([data[start:end] for start, end in itertools.pairwise(places)], store, compiled(store))


def test_seeded_cases() -> None:
    done, answered = finds.run(seed=20260101, cases=3000)
    assert done == 3000
    assert answered > 1000 * done, "nearly nothing was answered by the compiled code"


@pytest.mark.parametrize("cut", [0, 1])
def test_what_is_plain_is_all_answered_here(store: Store, cut: int) -> None:
    """Each of these forms is one that clients really send."""
    for name in (b"user.a", b"absent", b"gone", b"r", b"replicated", b"renamed", finds.LONGEST, b"cr\r", b"\x1d\x1f"):
        for line in (b"F FIND {%d+}\r\n%b\r\n" % (len(name), name), b'F1 find "%b"\r\n' % name):
            if b"\r" in name and b'"' in line:
                continue
            pieces = [line * 3] if not cut else [(line * 3)[at : at + 1] for at in range(3 * len(line))]
            said, count = finds.converse(pieces, store, compiled(store))
            assert len(said) == count > 0
            assert said == finds.converse(pieces, store, None)[0]


def test_a_batch_ends_at_its_limit_and_the_next_goes_on(store: Store) -> None:
    line = b"F FIND {6+}\r\nuser.a\r\n"
    one, _ = finds.converse([line], store, compiled(store))
    whole, count = finds.converse([line * 100], store, compiled(store), limit=3 * len(one))
    assert whole == one * 100
    assert count == len(whole)
