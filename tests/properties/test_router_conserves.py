"""Whatever the backends do, and in whatever order: every recipient has its replies, each in its place, none invented.

A scheduler plays all that can happen next (a backend answers, is lost, is slow, the client goes on) in the order that
hypothesis draws; the connections' own automata guard the gate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from cyrusext.backends import Backends
from cyrusext.lookup import Answer, Verdict
from cyrusext.runtime.config_schema import Timeouts
from lmtp_router.interfaces import LinkUser
from lmtp_router.protocol.client import ClientConnection
from lmtp_router.protocol.identity import Origin
from lmtp_router.protocol.state import ClientState
from lmtp_router.protocol.types import NEED_DATA, Answered, Mail, Rcpt, Ready, Reply, Sent
from lmtp_router.recipient import Recipient
from lmtp_router.results import Replies
from lmtp_router.routing import Routing
from lmtp_router.transaction import Transaction

MESSAGE = [b"one\r\n", b"two\r\n", b"three\r\n"]
GOOD = {Sent.MAIL: 250, Sent.RCPT: 250, Sent.DATA: 354, Sent.MESSAGE: 250, Sent.RSET: 250}


class PlayedLink:
    """A backend connection whose answers the scheduler gives."""

    paused = False

    def __init__(self, world: World, user: LinkUser, *, reused: bool) -> None:
        self.world = world
        self.user: LinkUser | None = user
        self.reused = reused
        self.number = len(world.links)
        self.connection = ClientConnection("router")
        self.connection.receive_data(b"220 b\r\n")
        assert self.connection.next_event() is NEED_DATA
        self.connection.data_to_send()
        self.connection.receive_data(b"250-b\r\n250 PIPELINING\r\n")
        assert self.connection.next_event() == Ready()
        self.owed: list[Sent] = []
        self.got = b""
        self.ended = False
        self.open = True

    @property
    def extensions(self) -> frozenset[bytes]:
        return self.connection.extensions

    @property
    def outstanding(self) -> int:
        return self.connection.outstanding

    def mail(self, mail: Mail) -> None:
        self.connection.mail(mail)
        self.owed.append(Sent.MAIL)

    def rcpt(self, path: bytes, recipient: Recipient) -> None:
        self.connection.rcpt(path, recipient)
        self.owed.append(Sent.RCPT)

    def data(self) -> None:
        self.connection.data()
        self.owed.append(Sent.DATA)

    def body(self, chunk: bytes) -> None:
        assert self.open
        self.got += self.connection.body(chunk)

    def end(self, recipients: list[Recipient]) -> None:
        assert self.open
        self.connection.end(list(recipients))
        self.ended = True
        self.owed += [Sent.MESSAGE] * len(recipients)

    def release(self) -> None:
        self.user = None
        if not self.connection.reusable:
            assert self.connection.state is ClientState.ENVELOPE
        self.open = False

    def close(self) -> None:
        self.user = None
        self.open = False

    def answer(self, code: int) -> None:
        """Answer the oldest command that is owed one."""
        sent = self.owed.pop(0)
        status = b"5.1.1 " if code == 550 else b""
        text = b"%d %blink %d answer %d\r\n" % (code, status, self.number, self.world.next_answer())
        self.connection.data_to_send()
        self.connection.receive_data(text)
        event = self.connection.next_event()
        assert isinstance(event, Answered)
        assert event.sent is sent
        if sent is Sent.MESSAGE and code == 250:
            assert isinstance(event.context, Recipient)
            self.world.delivered.append((event.context, text))
            assert self.ended
            assert self.got == b"".join(MESSAGE)
        user = self.user
        if user is not None:
            user.answered(event.sent, event.context, event.reply)
            user.flush()

    def lose(self) -> None:
        user, self.user = self.user, None
        self.open = False
        if user is not None:
            user.lost()
            user.flush()


@dataclass
class World:
    """The client, the lookup and the pool, all played."""

    servers: list[str]
    mail: Mail
    links: list[PlayedLink] = field(default_factory=list)
    waiting: list[LinkUser] = field(default_factory=list)
    delivered: list[tuple[Recipient, bytes]] = field(default_factory=list)
    written: bytes = b""
    decided: bool | None = None
    done: list[tuple[Recipient, Reply]] = field(default_factory=list)
    answers: int = 0
    clock: float = 0.0
    origin: Origin = field(default_factory=Origin)

    def __post_init__(self) -> None:
        self.replies = Replies()
        self.transaction = Transaction(
            self.mail, self, self.replies, Routing(self, Backends()), self, Timeouts(), lambda: self.clock, 1 << 20
        )
        self.all: list[Recipient] = []

    def next_answer(self) -> int:
        self.answers += 1
        return self.answers

    # The lookup: recipient n is at its server; asked again, possibly elsewhere.

    def server_of(self, address: bytes) -> str | None:
        return None

    def servers_of(self, addresses: list[bytes]) -> list[str] | None:
        return None

    def recipient(self, address: bytes) -> Answer:
        server = self.servers[int(address[1:]) % len(self.servers)]
        if server == "-":
            return Answer(Verdict.ABSENT)
        if server == "?":
            return Answer(Verdict.TEMPORARY)
        asked = sum(1 for link in self.links) % 2
        return Answer(Verdict.FOUND, b"", f"{server}{asked}", "")

    # The pool.

    def acquire(self, delivery: LinkUser, *, fresh: bool) -> None:
        self.waiting.append(delivery)

    def withdraw(self, delivery: LinkUser) -> None:
        self.waiting.remove(delivery)

    # The session.

    def signed(self, answer: Reply) -> bytes:
        return answer.raw

    def data_decided(self, accepted: bool) -> None:
        assert self.decided is None
        self.decided = accepted

    def transaction_moved(self) -> None:
        pass

    def recipient_done(self, recipient: Recipient, final: Reply, size: int) -> None:
        self.done.append((recipient, final))

    def flush(self) -> None:
        self.written += self.replies.ready()

    # What can happen next.

    def possible(self) -> tuple[list[Callable[[], None]], list[Callable[[], None]]]:
        """What backends that work would do next, and what others would."""
        good: list[Callable[[], None]] = []
        bad: list[Callable[[], None]] = [self.expire]
        for user in self.waiting:
            good.append(partial(self.connect, user, reused=False))
            good.append(partial(self.connect, user, reused=True))
            bad.append(partial(self.refuse_link, user))
        for link in self.links:
            if link.user is None:
                continue
            bad.append(link.lose)
            if link.owed:
                good.append(partial(link.answer, GOOD[link.owed[0]]))
                bad += [partial(link.answer, 452), partial(link.answer, 421)]
                if link.owed[0] is Sent.RCPT:
                    bad.append(partial(link.answer, 550))
        return good, bad

    def connect(self, user: LinkUser, *, reused: bool) -> None:
        self.waiting.remove(user)
        link = PlayedLink(self, user, reused=reused)
        self.links.append(link)
        user.connected(link)
        user.flush()

    def refuse_link(self, user: LinkUser) -> None:
        self.waiting.remove(user)
        user.unavailable(Reply(451, b"451 no link\r\n"))
        user.flush()

    def expire(self) -> None:
        self.clock += 1000.0
        self.transaction.expire(self.clock)


def take_first(steps: list[Callable[[], None]]) -> None:
    steps.pop(0)()


LMTP, ONE_REPLY, PRDR = Mail(b"<>"), Mail(b"<>", one_reply=True), Mail(b"<>", prdr=True)


def without_frame(finals: list[bytes]) -> list[bytes]:
    """The replies for each recipient of those that PRDR puts between two others."""
    begin, *each, whole = finals
    assert begin.startswith(b"353 ")
    codes = {reply[:1] for reply in each}
    assert whole[:1] == (b"2" if b"2" in codes else b"4" if b"4" in codes else b"5"), "not worse than any"
    return each


@settings(max_examples=1000, deadline=None)
@given(
    st.sampled_from([LMTP, LMTP, ONE_REPLY, PRDR]),
    st.integers(0, 2**32),
    st.lists(st.sampled_from(["a", "b", "a", "b", "c", "-", "?"]), min_size=1, max_size=4),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.03, 0.1, 0.4]),
)
def test_recipients_are_conserved(mail: Mail, seed: int, servers: list[str], count: int, trouble: float) -> None:
    random = Random(seed)
    world = World(servers, mail)
    transaction = world.transaction
    script: list[Callable[[], None]] = [partial(transaction.rcpt, Rcpt(b"<u%d>" % number)) for number in range(count)]
    script.append(transaction.data)
    body: list[Callable[[], None]] = [partial(transaction.feed, chunk) for chunk in MESSAGE]
    body.append(partial(transaction.end, sum(map(len, MESSAGE))))

    steps = 0
    while not (transaction.over or world.decided is False):
        good, bad = world.possible()
        if script:
            good += [partial(take_first, script)] * 2
        elif world.decided and body:
            good += [partial(take_first, body)] * 2
        assert good, "nobody can move and the transaction is not over"
        random.choice(bad if random.random() < trouble else good)()
        world.flush()
        steps += 1
        assert steps < 2000
    world.flush()

    assert world.replies.owed == 0
    replies = world.written.split(b"\r\n")[:-1]
    rcpt_replies, finals = replies[:count], replies[count:]
    accepted = [reply for reply in rcpt_replies if reply.startswith(b"250")]
    assert len(rcpt_replies) == count
    if world.decided is False:
        assert not accepted
        assert not finals
        assert not any(link.ended for link in world.links)
        return
    if mail.one_reply:
        assert len(accepted) == 1, "one reply can not stand for two"
    if mail.prdr and len(accepted) > 1:
        finals = without_frame(finals)
    assert len(finals) == len(accepted), "one reply after the message for each that was accepted"
    assert [recipient.final.raw[:-2] for recipient in transaction.recipients if recipient.final] == finals
    assert [r.rcpt.path for r in transaction.recipients] == sorted(r.rcpt.path for r in transaction.recipients)
    told = {id(r): r.final.raw for r in transaction.recipients if r.final is not None and r.final.positive}
    given_by_backends = {id(r): text for r, text in world.delivered}
    assert told == given_by_backends, "a 250 is that backend's reply to that recipient, and none of these is lost"
    assert len(world.delivered) == len(given_by_backends), "a recipient was delivered twice"
    for link in world.links:
        assert b"".join(MESSAGE).startswith(link.got)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30), st.integers(0, 2**32))
def test_replies_keep_the_order_of_their_commands(commands: list[tuple[bool, bool]], seed: int) -> None:
    replies = Replies()
    slots = []
    expected = b""
    written = b""
    for number, (known, patient) in enumerate(commands):
        raw = b"%03d\r\n" % number
        expected += raw
        if known:
            replies.add(raw, patient=patient)
        else:
            slots.append((replies.reserve(), raw))
        written += replies.ready()
    Random(seed).shuffle(slots)
    for slot, raw in slots:
        replies.fill(slot, raw)
        written += replies.ready()
    written += replies.ready()
    assert written == expected
    assert replies.owed == 0
