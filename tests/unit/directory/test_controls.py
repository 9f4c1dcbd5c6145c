"""The values of controls, byte by byte."""

from __future__ import annotations

import pytest

from cyrusext.directory.controls import post_read_request, read_entry
from cyrusext.errors import DirectoryError

ANSWER = (
    b"\x64\x82\x01\x4a\x04\x02cn\x30\x82\x01\x42"
    b"\x30\x0b\x04\x03seq\x31\x04\x04\x02\x31\x32"
    b"\x30\x82\x01\x31\x04\x03acl\x31\x82\x01\x28\x04\x82\x01\x24" + b"x" * 292
)


def test_what_is_asked() -> None:
    assert post_read_request(["a", "bc"]) == b"\x30\x07\x04\x01a\x04\x02bc"
    assert post_read_request(["y" * 200]) == b"\x30\x81\xcb\x04\x81\xc8" + b"y" * 200


def test_what_is_answered() -> None:
    assert read_entry(ANSWER) == {"seq": [b"12"], "acl": [b"x" * 292]}


@pytest.mark.parametrize("size", range(len(ANSWER)))
def test_what_is_cut_off(size: int) -> None:
    with pytest.raises(DirectoryError):
        read_entry(ANSWER[:size])


@pytest.mark.parametrize(
    "wrong", [ANSWER + b"\x04\x00", b"\x30\x00", b"\x64\x00", b"\x64\x80\x00", b"\x64\x85\0\0\0\0\0"]
)
def test_what_is_something_else(wrong: bytes) -> None:
    with pytest.raises(DirectoryError):
        read_entry(wrong)
