"""What is passed on without being taken apart (_express.pyx) ends as what is, octet for octet, whatever happens.

Rule: each conversation is held twice, once with a hot table, by which a transaction is passed on as it is, and once
without one; client, backends and figures must not tell the two apart.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.protocol.server import Limits
from tests.harness.lmtp_peer import LmtpClient, Message, RouterUnderTest, Script, ScriptedBackend, play, wait_until

pytestmark = pytest.mark.faults

A, B, A2, B2 = b"<u0@example.org>", b"<u1@example.org>", b"<u2@example.org>", b"<u3@example.org>"
ALL = (A, B, A2, B2)
BODY = b"Subject: x\r\n\r\nhello\r\n"
QUICK = Timeouts(connect=0.3, greeting=0.3, envelope=0.3, data=0.3, final=0.3, idle=30.0)
LIMITS = Limits(max_size=1 << 20)


@dataclass
class Held:
    """What came of a conversation."""

    told: bytes
    messages: dict[str, list[Message]]
    verdicts: dict[str, dict[str, int]]
    octets: tuple[int, dict[str, int]]
    express: bool = field(compare=False)


def envelope(*rcpts: bytes, mail: bytes = b"<from@example.org>") -> bytes:
    return b"MAIL FROM:%b\r\n" % mail + b"".join(b"RCPT TO:%b\r\n" % rcpt for rcpt in rcpts) + b"DATA\r\n"


async def warm(client: LmtpClient) -> None:
    """A connection to each backend is there and free."""
    client.send(envelope(A, B))
    assert await client.codes(4) == [b"250", b"250", b"250", b"354"]
    client.send(BODY + b".\r\n")
    assert await client.codes(2) == [b"250", b"250"]


def hold(
    hot: bool,
    script: Script | None = None,
    opening: bytes = envelope(*ALL),
    rest: tuple[bytes, ...] = (BODY + b".\r\n",),
    *,
    replace: bool = False,
    received: bool = True,
) -> Held:
    """Say `opening`, then, where the message is asked for, `rest` piece by piece; then RSET and QUIT."""
    found: list[Held] = []

    async def test() -> None:
        backends = {"a": ScriptedBackend(), "b": ScriptedBackend()}
        under_test = RouterUnderTest(
            backends, timeouts=QUICK, limits=LIMITS, replace=replace, settings={"received": received, "max_hops": 5}
        )
        async with under_test:
            client = await under_test.client()
            await warm(client)
            under_test.lookup.hot = hot
            backends["a"].script = script or Script()
            before = len(backends["a"].messages), len(backends["b"].messages)
            client.send(opening)
            heard = b""
            while not heard.endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n"):
                reply = await client.reply()
                heard += reply
                if reply.startswith((b"503", b"554 5.5.1", b"421")):
                    break
            else:
                for piece in rest:
                    client.send(piece)
                    await client.writer.drain()
                    # Each is read by itself, where the machine has the time; where not, nothing may depend on it.
                    await asyncio.sleep(0.002)
            client.send(b"RSET\r\nQUIT\r\n")
            heard += await client.at_end()
            assert under_test.frontend is not None
            tally = under_test.frontend.journal.tally
            await wait_until(lambda: not under_test.frontend.sessions, "the session is over")  # type: ignore[union-attr]
            backends["a"].released.set()
            messages = {
                name: [
                    Message(message.mail, message.rcpts, undated(message.body))
                    for message in backend.messages[before[name == "b"] :]
                ]
                for name, backend in backends.items()
            }
            counted = tally.received_bytes, dict(tally.delivered_bytes)
            verdicts = {server: dict(of) for server, of in tally.recipients.items()}
            found.append(Held(unnamed(heard), messages, verdicts, counted, under_test.lookup.hits > 0))
            # Everything that was lent is free again.
            backends["a"].script = Script()
            again = await under_test.client()
            await warm(again)

    play(test)
    return found[0]


def unnamed(heard: bytes) -> bytes:
    """The replies without the name of the session behind our own failures."""
    return re.sub(rb" \[[0-9a-f]+-[0-9a-f]+\]\r\n", b"\r\n", heard)


def undated(body: bytes) -> bytes:
    """The message without the Received field that is our own: it tells the time and the session."""
    if not body.startswith(b"Received: "):
        return body
    at = body.index(b"\r\n")
    while body[at + 2 : at + 3] in (b" ", b"\t"):
        at = body.index(b"\r\n", at + 2)
    return body[at + 2 :]


def same(script: Callable[[], Script], *said: object, **how: object) -> Held:
    """Hold a conversation in both ways; return what came of it."""
    express = hold(True, script(), *said, **how)  # type: ignore[arg-type]
    assert express.express, "it was to be passed on as it is"
    plain = hold(False, script(), *said, **how)  # type: ignore[arg-type]
    assert not plain.express
    assert express == plain
    return express


@pytest.mark.parametrize("received", [True, False])
def test_what_is_common(received: bool) -> None:
    held = same(Script, received=received)
    assert [message.rcpts for message in held.messages["a"]] == [[A, A2]]
    assert [message.body for message in held.messages["b"]] == [BODY]
    assert held.verdicts == {"a": {"delivered": 3}, "b": {"delivered": 3}}


@pytest.mark.parametrize("flaw", ["gone", "silent", "half gone", "half silent", "twice", "twice gone", "slow"])
@pytest.mark.parametrize("place", ["mail", "rcpt", "data", "final"])
def test_a_reply_with_a_flaw(place: str, flaw: str) -> None:
    held = same(lambda: Script(flaw=flaw, flaw_at=place))
    assert [message.body for message in held.messages["b"]] == [BODY]


@pytest.mark.parametrize("place", ["mail", "rcpt", "data", "354", "body", "dot"])
@pytest.mark.parametrize("what", ["drop_after", "hang_at"])
def test_a_backend_that_goes_or_hangs(place: str, what: str) -> None:
    if (place, what) == ("354", "hang_at"):
        place = "body"
    held = same(lambda: Script(**{what: place}))  # type: ignore[arg-type]
    assert [message.body for message in held.messages["b"]] == [BODY]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_replies_already_received_count(count: int) -> None:
    held = same(lambda: Script(drop_after_finals=count))
    assert held.verdicts["a"].get("deferred", 0) == 2 - count


@pytest.mark.parametrize("code", [b"251", b"421", b"450", b"550", b"552"])
@pytest.mark.parametrize("place", ["mail", "rcpt", "data", "final", "rcpt all", "final all"])
def test_another_reply(place: str, code: bytes) -> None:
    """Of one line and of two; what is said to one recipient is nobody else's."""
    for words in (b"%b %b.7.9 own words\r\n", b"%b-%b.7.9 own\r\n%b %b.7.9 words\r\n"):
        reply = words % ((code, code[:1]) * (words.count(b"%b") // 2))
        of = {A: reply, A2: reply} if place.endswith("all") else {A2: reply}
        where: dict[str, dict[str, object]] = {
            "mail": {"mail": reply},
            "rcpt": {"rcpt": of},
            "rcpt all": {"rcpt": of},
            "data": {"data": reply},
            "final": {"final": of},
            "final all": {"final": of},
        }
        same(lambda kind=where[place]: Script(**kind))  # type: ignore[misc]


def test_a_mailbox_that_is_no_longer_there() -> None:
    """What the backend does not know is looked up again: the location may be stale."""
    held = same(lambda: Script(rcpt={A: b"550 5.1.1 who\r\n"}))
    assert b"451 4.4.3" in held.told
    held = same(lambda: Script(final={A: b"550 5.1.1 who\r\n"}))
    assert b"451 4.4.3" in held.told


BODIES = {
    "bare newline": (b"Subject: x\r\n\r\nhel\nlo\r\n.\r\n",),
    "bare newline, later": (b"Subject: x\r\n\r\n", b"hel\nlo\r\n.\r\n"),
    "empty": (b".\r\n",),
    "dots": (b"..x\r\n..\r\n.\r\n",),
    "octet by octet": tuple(bytes([octet]) for octet in b"a: b\r\n\r\n..x\r\n.\r\n"),
    "long": (b"a: b\r\n\r\n", b"x" * 70 + b"\r\n", (b"y" * 98 + b"\r\n") * 4000, b".\r\n"),
    "too long": ((b"y" * 98 + b"\r\n") * 12000, b".\r\n"),
    "a false end": (b"a: b\r\n\r\n" + b"x" * 8189 + b".\r\nMAIL FROM:<>\r\n.\r\n",),
    "a loop": (b"Received: from a by b\r\n" * 7 + b"\r\nx\r\n.\r\n",),
    "nearly a loop": (b"Received: from a by b\r\n" * 4 + b"\r\nx\r\n.\r\n",),
    "nul": (b"a: b\r\n\r\nx\0y\r\n.\r\n",),
    "more behind it": (BODY + b".\r\nNOOP\r\n",),
    "the next message behind it": (BODY + b".\r\n" + envelope(A, B) + BODY + b".\r\n",),
}


@pytest.mark.parametrize("replace", [False, True], ids=["reject", "replace"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies(body: tuple[bytes, ...], replace: bool) -> None:
    same(Script, envelope(*ALL), body, replace=replace)


OPENINGS = {
    "one": envelope(B),
    "twice the same": envelope(A, B, A, A),
    "size and body": envelope(*ALL, mail=b"<f@example.org> SIZE=100 BODY=8BITMIME"),
    "null": envelope(*ALL, mail=b"<>"),
    "many": envelope(*[b"<u%d@example.org>" % n for n in range(200)]),
    "the body at once": envelope(*ALL) + BODY + b".\r\n",
}
LONG_WAY = {
    "unknown": envelope(A, b"<nobody@example.org>"),
    "all unknown": envelope(b"<nobody@example.org>"),
    "too many": envelope(*[b"<u%d@example.org>" % n for n in range(201)]),
    "too large": envelope(A, mail=b"<f@example.org> SIZE=10000000"),
    "quoted": envelope(b'<"u0"@example.org>', A),
    "parameters": envelope(A, b"<u1@example.org> NOTIFY=NEVER"),
    "not offered": envelope(A, mail=b"<f@example.org> SMTPUTF8"),
    "not a path": envelope(A, b"u1@example.org"),
    "nobody": envelope(),
    "no sender": b"RCPT TO:<u0@example.org>\r\nDATA\r\n",
    "bare newline": envelope(*ALL).replace(b"\r\nDATA", b"\nDATA"),
}


@pytest.mark.parametrize("opening", OPENINGS.values(), ids=OPENINGS)
def test_envelopes(opening: bytes) -> None:
    if opening.endswith(b".\r\n"):
        assert hold(True, None, opening) == hold(False, None, opening)
    else:
        same(Script, opening)


@pytest.mark.parametrize("opening", LONG_WAY.values(), ids=LONG_WAY)
def test_envelopes_that_are_not_common(opening: bytes) -> None:
    assert hold(True, None, opening) == hold(False, None, opening)


@pytest.mark.parametrize("rest", [b"QUIT\r\n", envelope(A, B), b"NO"], ids=["good-bye", "envelope", "half a command"])
def test_what_is_said_behind_the_message(rest: bytes) -> None:
    """In one piece with its end, as Postfix says QUIT: it waits for the replies, and the transaction stays common."""

    async def test() -> None:
        backends = {"a": ScriptedBackend(), "b": ScriptedBackend()}
        async with RouterUnderTest(backends) as under_test:
            client = await under_test.client()
            await warm(client)
            under_test.lookup.hot = True
            client.send(envelope(*ALL))
            assert await client.codes(6) == [b"250"] * 5 + [b"354"]
            client.send(BODY + b".\r\n" + rest)
            assert await client.codes(4) == [b"250"] * 4
            if rest == b"NO":
                client.send(b"OP\r\n")
            said = {b"QUIT\r\n": [b"221"], b"NO": [b"250"]}.get(rest, [b"250", b"250", b"250", b"354"])
            assert await client.codes(len(said)) == said
            assert under_test.frontend is not None
            assert under_test.frontend.journal.tally.express == 1
            assert [message.body for message in backends["a"].messages] == [BODY, BODY]

    play(test)


@pytest.mark.parametrize("hot", [True, False])
@pytest.mark.parametrize("phase", ["rcpt", "final"])
def test_replies_that_the_client_does_not_read(phase: str, hot: bool) -> None:
    """More of them than the kernel takes: the transaction leaves the short way while it writes them, and ends well."""
    many, words = 199, b"250 2.1.5 %b\r\n" % (b"x" * 2000)

    async def test() -> None:
        backends = {"a": ScriptedBackend(), "b": ScriptedBackend()}
        async with RouterUnderTest(backends) as under_test:
            client = await under_test.client()
            await warm(client)
            under_test.lookup.hot = hot
            setattr(backends["a"].script, phase, {A: words})
            transport = client.writer.transport
            assert under_test.frontend is not None
            (session,) = under_test.frontend.sessions
            assert session._transport is not None
            # What is written waits in the router, not in the kernel.
            session._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

            def listen(*, ears: bool) -> None:
                (transport.resume_reading if ears else transport.pause_reading)()  # type: ignore[attr-defined]

            listen(ears=phase != "rcpt")
            client.send(envelope(*[A] * many, B))
            if phase == "rcpt":
                await wait_until(lambda: backends["a"].commands[-1] == b"DATA\r\n", "the envelope is there")
                await asyncio.sleep(0.05)
                listen(ears=True)
            assert await client.codes(many + 3) == [b"250"] * (many + 2) + [b"354"]
            listen(ears=phase != "final")
            client.send(BODY + b".\r\n")
            if phase == "final":
                await wait_until(lambda: len(backends["a"].messages) == 2, "the message is there")
                await asyncio.sleep(0.05)
                listen(ears=True)
            assert await client.codes(many + 1) == [b"250"] * (many + 1)
            assert await client.ask(b"QUIT")
            assert under_test.frontend.journal.tally.express == (hot and phase == "final")
            for backend in backends.values():
                assert [message.body for message in backend.messages] == [BODY, BODY]

    play(test)


@pytest.mark.parametrize("hot", [True, False])
def test_text_before_it_was_asked_for(hot: bool) -> None:
    """It comes behind the envelope, while a backend has not answered: nothing of it goes to anybody before its 354."""

    async def test() -> None:
        gate = asyncio.Event()

        async def step(place: str) -> None:
            if place == "data":
                await gate.wait()

        backends = {"a": ScriptedBackend(), "b": ScriptedBackend()}
        async with RouterUnderTest(backends) as under_test:
            client = await under_test.client()
            await warm(client)
            under_test.lookup.hot = hot
            backends["a"].script.step = step
            client.send(envelope(*ALL))
            await wait_until(lambda: backends["a"].commands[-1] == b"DATA\r\n", "the envelope is there")
            client.send(BODY + b".\r\n")
            await wait_until(lambda: len(backends["b"].messages) == 2, "the other has it")
            assert len(backends["a"].messages) == 1
            assert not [line for line in backends["a"].commands if b"Subject" in line]
            gate.set()
            assert await client.codes(10) == [b"250"] * 5 + [b"354"] + [b"250"] * 4
            assert [message.body for message in backends["a"].messages] == [BODY, BODY]

    play(test)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_client_that_goes(after: int) -> None:
    """After the envelope, after 354, within the message, after its end: nobody gets half of it, and links are free."""

    async def test() -> None:
        backends = {"a": ScriptedBackend(), "b": ScriptedBackend()}
        async with RouterUnderTest(backends, timeouts=QUICK) as under_test:
            client, other = await under_test.client(), await under_test.client()
            await warm(client)
            under_test.lookup.hot = True
            frontend = under_test.frontend
            assert frontend is not None
            client.send(envelope(*ALL))
            if after:
                assert await client.codes(6) == [b"250"] * 5 + [b"354"]
                client.send(BODY if after < 3 else BODY + b".\r\n")
            if after > 1:
                await wait_until(lambda: backends["b"].received > len(BODY), "the body")
            client.writer.transport.abort()
            await wait_until(lambda: len(frontend.sessions) == 1, "the client is gone")
            await warm(other)
            assert under_test.lookup.hits
            for backend in backends.values():
                bodies = [undated(message.body) for message in backend.messages]
                assert bodies == [BODY] * (3 if after == 3 else 2)

    play(test)


def test_drained_behind_the_transaction() -> None:
    """A router that stops lets it end, and says good-bye then."""

    async def test() -> None:
        backends = {"a": ScriptedBackend(), "b": ScriptedBackend()}
        async with RouterUnderTest(backends) as under_test:
            client = await under_test.client()
            await warm(client)
            under_test.lookup.hot = True
            client.send(envelope(*ALL))
            assert await client.codes(6) == [b"250"] * 5 + [b"354"]
            assert under_test.frontend is not None
            stopping = asyncio.ensure_future(under_test.frontend.stop())
            await asyncio.sleep(0.01)
            client.send(BODY + b".\r\n")
            assert await client.codes(5) == [b"250"] * 4 + [b"421"]
            await stopping

    play(test)


@given(
    code=st.sampled_from([b"250", b"354", b"450", b"550"]),
    lines=st.lists(st.sampled_from([b"250 2.1.5 ok", b"354 go", b"250-a", b"451 4.2.2 later", b"x", b""]), max_size=4),
    cuts=st.lists(st.integers(0, 200), max_size=3),
    place=st.sampled_from(["mail", "data", "final"]),
)
def test_any_words_at_any_place(code: bytes, lines: list[bytes], cuts: list[int], place: str) -> None:
    """Replies made at random, the message cut at random."""
    words = b"".join(line + b"\r\n" for line in [*lines, code + b" 2.0.0 x"])
    script: dict[str, object] = (
        {"mail": words} if place == "mail" else {"data": words} if place == "data" else {"final": {A: words}}
    )
    whole = BODY + b".\r\n"
    at = sorted({0, len(whole), *(cut % len(whole) for cut in cuts)})
    pieces = tuple(whole[start:end] for start, end in itertools.pairwise(at))
    express, plain = (hold(hot, Script(**script), envelope(*ALL), pieces) for hot in (True, False))  # type: ignore[arg-type]
    assert express == plain
