"""COMPRESS "DEFLATE": whole, in pieces, bounded, damaged."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyrusext.errors import RemoteProtocolError
from cyrusext.wire.deflate import Deflate


def take_all(deflate: Deflate, limit: int) -> bytes:
    data = b""
    while deflate.pending:
        piece = deflate.take(limit)
        assert len(piece) <= limit
        data += piece
    return data


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50), st.integers(1, 400))
def test_each_piece_can_be_read_at_once(pieces: list[bytes], chunk: int, limit: int) -> None:
    one, other = Deflate(), Deflate()
    for piece in pieces:
        packed = one.compress(piece)
        got = b""
        for start in range(0, len(packed), chunk):
            other.feed(packed[start : start + chunk])
            got += take_all(other, limit)
        assert got == piece


def test_what_another_zlib_sent_with_the_largest_window_is_read() -> None:
    other = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    text = random.Random(1).randbytes(32_000)
    deflate = Deflate()
    deflate.feed(other.compress(text + text) + other.flush(zlib.Z_SYNC_FLUSH))
    assert take_all(deflate, 1000) == text + text


def test_a_bomb_goes_off_in_small_pieces() -> None:
    """100 MiB in 100 KiB: no more than the limit is ever inflated at once, and what waits stays compressed."""
    bomb = zlib.compressobj(9, wbits=-15)
    packed = bomb.compress(bytes(100 << 20)) + bomb.flush(zlib.Z_SYNC_FLUSH)
    deflate = Deflate()
    deflate.feed(packed)
    for _ in range(50):
        assert len(deflate.take(65536)) == 65536
    assert deflate.waiting > len(packed) * 9 // 10
    assert deflate.pending


def test_what_is_no_deflate_is_refused() -> None:
    deflate = Deflate()
    deflate.feed(b"\xff" * 20)
    with pytest.raises(RemoteProtocolError, match="damaged"):
        deflate.take(100)


def test_the_end_of_the_deflate_stream_is_refused() -> None:
    deflate = Deflate()
    deflate.feed(zlib.compress(b"abc", wbits=-15) + b"x")
    with pytest.raises(RemoteProtocolError, match="has an end"):
        deflate.take(100)
