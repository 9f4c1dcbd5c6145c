"""Properties of the wire: any cut is one feed, encoding and decoding are inverse, junk is never an accident."""

from __future__ import annotations

import contextlib
import itertools

from hypothesis import given
from hypothesis import strategies as st

from cyrusext.errors import RemoteProtocolError
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate import codec
from cyrusext.mupdate.connection import ServerConnection
from cyrusext.mupdate.types import (
    NEED_DATA,
    PAUSED,
    Activate,
    Authenticate,
    Bad,
    Banner,
    Bye,
    Command,
    Deactivate,
    Delete,
    Find,
    List,
    Logout,
    Mailbox,
    No,
    Noop,
    Ok,
    ProtocolViolation,
    Reply,
    Reserve,
    Starttls,
    Update,
)
from cyrusext.wire.framer import Framer, Message, Poisoned
from cyrusext.wire.sasl import Secret, decode_item, encode_item
from cyrusext.wire.tokens import quoted, tokenize

tags = st.from_regex(rb"[A-Za-z0-9.*+-]{1,30}", fullmatch=True).filter(lambda tag: tag not in (b"*", b"+"))
strings = st.binary(max_size=60).map(lambda value: value.replace(b"\0", b"."))
words = st.from_regex(r"[A-Z0-9-]{1,20}", fullmatch=True)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
hosts = st.lists(st.from_regex(r"[a-z0-9.:-]{1,20}", fullmatch=True), max_size=30).map(tuple)

commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Authenticate, tags, words, st.none() | st.binary(max_size=60).map(Secret)),
    st.builds(Starttls, tags),
    st.builds(Reserve, tags, strings, strings),
    st.builds(Activate, tags, strings, strings, strings),
    st.builds(Deactivate, tags, strings, strings),
    st.builds(Delete, tags, strings),
    st.builds(Find, tags, strings),
    st.builds(List, tags, strings),
    st.builds(Update, tags, hosts),
    st.builds(Noop, tags),
    st.builds(Logout, tags),
)
reply_tags = tags | st.just(b"*")
replies: st.SearchStrategy[Reply] = st.one_of(
    *(st.builds(kind, reply_tags, texts) for kind in (Ok, No, Bad, Bye)),
    st.builds(Mailbox, tags, strings, strings, strings),
    st.builds(Reserve, tags, strings, strings),
    st.builds(Delete, tags, strings),
)
records = st.builds(
    MailboxRecord,
    name=st.binary(min_size=1, max_size=60),
    state=st.sampled_from(State),
    server=st.from_regex(r"[a-z0-9.:-]{1,20}", fullmatch=True),
    partition=st.from_regex(r"[a-z0-9]{0,9}", fullmatch=True),
    acl=st.binary(max_size=60),
)


def cut(data: bytes, edges: list[int]) -> list[bytes]:
    places = [0, *sorted(edge % (len(data) + 1) for edge in edges), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


def framed(chunks: list[bytes]) -> list[Message | Poisoned]:
    framer = Framer()
    found: list[Message | Poisoned] = []
    for chunk in chunks:
        framer.feed(chunk)
        while (event := framer.next_message()) is not None:
            if isinstance(event, tuple):
                found.append(event)
    return found


edges = st.lists(st.integers(min_value=0, max_value=10_000), max_size=12)


@given(st.lists(commands, max_size=6), edges)
def test_commands_come_back_however_they_are_cut(sent: list[Command], places: list[int]) -> None:
    data = b"".join(codec.encode_command(command) for command in sent)
    got = [codec.decode_command(message) for message in framed(cut(data, places)) if not isinstance(message, Poisoned)]
    assert got == sent


@given(st.lists(replies, max_size=6), edges)
def test_replies_come_back_however_they_are_cut(sent: list[Reply], places: list[int]) -> None:
    data = b"".join(codec.encode_reply(reply) for reply in sent)
    got = [codec.decode_reply(message) for message in framed(cut(data, places)) if not isinstance(message, Poisoned)]
    assert got == sent


@given(reply_tags, st.lists(records, max_size=8))
def test_the_batch_encoder_is_the_codec(tag: bytes, batch: list[MailboxRecord]) -> None:
    clean = [
        record._replace(name=record.name.replace(b"\0", b"."), acl=record.acl.replace(b"\0", b".")) for record in batch
    ]
    slow = b"".join(codec.encode_reply(codec.reply_of(tag, record)) for record in clean)
    assert codec.encode_records(tag, clean) == slow


@given(texts, texts, texts, texts, st.lists(words, max_size=5), st.booleans(), st.booleans())
def test_banners_come_back(
    hostname: str, software: str, version: str, role: str, mechanisms: list[str], starttls: bool, partial: bool
) -> None:
    banner = Banner(hostname, software, version, role, tuple(mechanisms), starttls, (), partial)
    messages = [message for message in framed([codec.encode_banner(banner)]) if not isinstance(message, Poisoned)]
    assert codec.decode_banner(messages) == banner


@given(st.binary(max_size=80).map(lambda value: value.translate(bytes(range(256)), b"\0\r\n")))
def test_quoted_strings_come_back(value: bytes) -> None:
    assert tokenize((quoted(value),)) == [value]


@given(st.binary(max_size=80))
def test_items_come_back_and_junk_is_refused(value: bytes) -> None:
    assert decode_item(encode_item(value)) == Secret(value)
    try:
        item = decode_item(value)
    except RemoteProtocolError:
        return
    assert encode_item(item) == value


@given(st.lists(st.binary(max_size=40), max_size=7).filter(lambda parts: len(parts) % 2))
def test_junk_is_refused_as_the_peers_fault(parts: list[bytes]) -> None:
    message = tuple(parts)
    for decode in (tokenize, codec.decode_command, codec.decode_reply, lambda parts: codec.decode_banner([parts])):
        with contextlib.suppress(RemoteProtocolError):
            decode(message)


@given(st.lists(st.binary(max_size=200), max_size=20), st.booleans())
def test_junk_only_ever_makes_violations(chunks: list[bytes], login: bool) -> None:
    server = ServerConnection(hostname="x", version="0", mechanisms=["PLAIN"])
    if login:
        server.receive_data(b'a AUTHENTICATE "PLAIN"\r\n')
        server.next_event()
        server.send(Ok(b"a", "x"))
    for chunk in chunks:
        # no letter: no command can come of it
        server.receive_data(bytes(byte for byte in chunk if not chr(byte).isalpha()))
        while (event := server.next_event()) not in (NEED_DATA, PAUSED):
            assert isinstance(event, ProtocolViolation) or type(event).__name__ == "GoAhead"
