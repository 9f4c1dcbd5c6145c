"""The values of LDAP controls that every write carries, in BER, without a general decoder.

Rule: bytes of fixed form out, bytes of that form in; anything else is an error, never a guess.  The general decoder of
python-ldap's own classes costs more than everything else that a client does for a write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cyrusext.errors import DirectoryError

ASSERTION = "1.3.6.1.1.12"
"""RFC 4528."""
POST_READ = "1.3.6.1.1.13.2"
"""RFC 4527 section 2."""

_SEQUENCE, _SET, _OCTETS, _ENTRY = 0x30, 0x31, 0x04, 0x64


def post_read_request(attributes: Sequence[str]) -> bytes:
    """Return the AttributeSelection that asks for `attributes` of the entry as the change leaves it."""
    return _element(_SEQUENCE, b"".join(_element(_OCTETS, name.encode()) for name in attributes))


def read_entry(value: bytes) -> dict[str, list[bytes]]:
    """Return the attributes of the SearchResultEntry in a post-read response; raises DirectoryError."""
    [(_, content)] = _exactly(_elements(value, _ENTRY), 1)
    (_, _), (_, attributes) = _exactly(_elements(content, _OCTETS, _SEQUENCE), 2)
    found: dict[str, list[bytes]] = {}
    for _, attribute in _elements(attributes, _SEQUENCE):
        (_, name), (_, values) = _exactly(_elements(attribute, _OCTETS, _SET), 2)
        found[name.decode("ascii", "replace")] = [item for _, item in _elements(values, _OCTETS)]
    return found


def _exactly(elements: Iterator[tuple[int, bytes]], count: int) -> list[tuple[int, bytes]]:
    found = list(elements)
    if len(found) != count:
        raise DirectoryError(f"a control's value has {len(found)} elements in place of {count}")
    return found


def _elements(data: bytes, *tags: int) -> Iterator[tuple[int, bytes]]:
    """Take `data` apart: tags in this order, the last of them as often as it comes (X.690 8.1, definite lengths)."""
    place = number = 0
    while place < len(data):
        tag, size, place = data[place], data[place + 1 : place + 2], place + 2
        if not size or tag != tags[min(number, len(tags) - 1)]:
            raise DirectoryError("a control's value is not what it should be")
        length = size[0]
        if length & 0x80:
            width = length & 0x7F
            if not 0 < width <= 4 or place + width > len(data):
                raise DirectoryError("a control's value has a length that is none")
            length, place = int.from_bytes(data[place : place + width]), place + width
        if place + length > len(data):
            raise DirectoryError("a control's value is cut off")
        yield tag, data[place : place + length]
        place, number = place + length, number + 1


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    width = (size.bit_length() + 7) // 8
    return bytes([tag, 0x80 | width]) + size.to_bytes(width) + content
