"""The MUPDATE server over real connections: order, streams, bounds, ends."""

from __future__ import annotations

import base64
import io
import ipaddress
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path

import pytest

from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate import reading
from cyrusext.mupdate.service import Bounds
from cyrusext.names import without_folder
from cyrusext.replica.feed import SLICE
from cyrusext.runtime import logging
from tests.harness.inprocess import InProcessMaster
from tests.harness.mupdate import Mupdate, UpdateStream, literal
from tests.harness.waiting import NeverHappened, wait_until


def holds(name: bytes) -> Callable[[Container[bytes]], bool]:
    return lambda mirror: name in mirror


LOCATION = b"be1!default"
ACL = b"alice\tlrs\t"


@pytest.fixture
def master(tmp_path: Path) -> Iterator[InProcessMaster]:
    with InProcessMaster(tmp_path) as running:
        yield running


def activate(client: Mupdate, name: bytes, location: bytes = LOCATION, acl: bytes = ACL) -> None:
    client.ok(b"ACTIVATE", name, location, acl)


def cyrus_order(name: bytes) -> bytes:
    return name.replace(b".", b"\x1f").replace(b"!", b"\x1d")


def read_all(client: socket.socket) -> bytes:
    """Everything until the server closes."""
    data = b""
    try:
        while chunk := client.recv(65536):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def fill(master: InProcessMaster, names: list[bytes]) -> None:
    client = master.connect()
    for start in range(0, len(names), 200):
        for name in names[start : start + 200]:
            client.send(b"F ACTIVATE " + b" ".join(map(literal, (name, LOCATION, ACL))) + b"\r\n")
        for _ in names[start : start + 200]:
            assert client.receive().verb == "OK"
    client.close()


NAMES = [b"user.a", b"user.a.b", b"user.a.c", b"user.a-b", b"user.a0", b"shared", b"d.org!user.x", b"d.org.uk!user.x"]


def test_list_is_in_cyrus_order_and_by_prefix_of_the_location(master: InProcessMaster) -> None:
    client = master.connect()
    for number, name in enumerate(random.Random(1).sample(NAMES, len(NAMES))):
        activate(client, name, b"be%d!p%d" % (number % 2, number % 3))
    activate(client, b"user.ten", b"be10!p0")
    everything = [entry.name for entry in client.list()]
    assert everything == sorted([*NAMES, b"user.ten"], key=cyrus_order)
    assert client.list(b"") == client.list()
    for prefix in (b"be1", b"be1!", b"be1!p", b"be1!p0", b"be", b"be3!", b"be10!", b"\xff!", b"!"):
        found = [entry for entry in client.list() if entry.location.startswith(prefix)]
        assert client.list(prefix) == found, prefix


def test_pipelined_changes_are_answered_in_order_and_reads_see_them(master: InProcessMaster) -> None:
    client = master.connect()
    batch = b""
    for number in range(600):
        name = literal(b"user.u%d" % number)
        batch += b"R%d RESERVE %s %s\r\n" % (number, name, literal(LOCATION))
        batch += b"F%d FIND %s\r\n" % (number, name) if number % 100 == 0 else b""
    client.send(batch + b"N NOOP\r\n")
    for number in range(600):
        assert client.receive()[:2] == (f"R{number}", "OK")
        if number % 100 == 0:
            assert client.receive().verb == "RESERVE"
            assert client.receive()[:2] == (f"F{number}", "OK")
    assert client.receive()[:2] == ("N", "OK")


def test_a_no_keeps_its_place_among_pipelined_answers(master: InProcessMaster) -> None:
    client = master.connect()
    client.send(b"1 RESERVE %s %s\r\n" % (literal(b"user.a"), literal(LOCATION)))
    client.send(b"2 RESERVE %s %s\r\n" % (literal(b""), literal(LOCATION)))
    client.send(b"3 RESERVE %s %s\r\n" % (literal(b"user.a"), literal(b"be2!default")))
    client.send(b"4 JUNK\r\n5 DELETE %s\r\n" % literal(b"user.a"))
    answers = [client.receive() for _ in range(5)]
    assert [(line.tag, line.verb) for line in answers] == [
        ("1", "OK"),
        ("2", "NO"),
        ("3", "NO"),
        ("4", "BAD"),
        ("5", "OK"),
    ]


def test_changes_are_pushed_at_once_to_all(master: InProcessMaster) -> None:
    writer = master.connect()
    activate(writer, b"user.old")
    streams = [master.stream() for _ in range(5)]
    activate(writer, b"user.new")
    writer.ok(b"DELETE", b"user.old")
    for stream in streams:
        stream.wait_for(lambda mirror: set(mirror) == {b"user.new"}, "the push", timeout_s=2)


def test_noop_is_a_barrier(master: InProcessMaster) -> None:
    """However much is on its way, what was granted before a NOOP has arrived with its OK."""
    writer, stream = master.connect(), master.stream()
    for round_ in range(20):
        names = [b"user.r%d.n%d" % (round_, number) for number in range(50)]
        for name in names:
            activate(writer, name)
        stream.barrier()
        assert stream.mirror.keys() >= set(names)


def test_update_during_writes_misses_nothing(master: InProcessMaster) -> None:
    """A subscription that begins among changes ends with what the store has."""
    fill(master, [b"user.f%05d" % number for number in range(3000)])
    writer = master.connect()
    rng = random.Random(7)
    streams = []
    for number in range(400):
        name = b"user.f%05d" % rng.randrange(3000)
        if rng.random() < 0.5:
            writer.send(b"W DELETE " + literal(name) + b"\r\n")
        else:
            location = literal(b"be1!p%d" % number)
            writer.send(b"W ACTIVATE " + literal(name) + b" " + location + b" " + literal(ACL) + b"\r\n")
        if number % 50 == 25:
            streams.append(master.stream())
    for _ in range(400):
        assert writer.receive().verb == "OK"
    truth = {entry.name: entry for entry in writer.list()}
    for stream in streams:
        stream.barrier()
        assert stream.mirror == truth
        assert [line.arguments[0] for line in stream.first] == sorted(
            (line.arguments[0] for line in stream.first), key=cyrus_order
        )


def test_only_of_the_hosts_named_with_what_moves_away_once_more(master: InProcessMaster) -> None:
    writer = master.connect()
    for server in (b"be1", b"be2", b"be3"):
        activate(writer, b"user." + server, server + b"!default")
    stream = master.stream(b"be1", b"be2")
    assert [line.arguments[0] for line in stream.first] == [b"user.be1", b"user.be2"]
    one = master.stream(b"be3")
    assert [line.arguments[0] for line in one.first] == [b"user.be3"]
    activate(writer, b"user.be3", b"be3!other")
    writer.ok(b"DEACTIVATE", b"user.be1", b"be1!default")
    activate(writer, b"user.be1", b"be3!default")
    stream.barrier()
    told = [(line.verb, *line.arguments[:2]) for line in stream.history[2:]]
    assert told[-1] == ("MAILBOX", b"user.be1", b"be3!default")
    assert b"user.be3" not in stream.mirror
    activate(writer, b"user.be1", b"be3!again")
    stream.barrier()
    assert stream.mirror[b"user.be1"].location == b"be3!default"


def test_what_a_stock_slave_may_lose_is_repeated_after_the_ok(master: InProcessMaster) -> None:
    client = master.connect()
    for name in NAMES:
        activate(client, name)
    client.ok(b"RESERVE", b"user.r-r", LOCATION)
    stream = master.stream()
    repeated = [stream.receive() for _ in range(4)]
    assert [(line.verb, line.arguments[0]) for line in repeated] == [
        ("MAILBOX", b"d.org!user.x"),
        ("MAILBOX", b"d.org.uk!user.x"),
        ("MAILBOX", b"user.a-b"),
        ("RESERVE", b"user.r-r"),
    ]
    assert repeated[2].arguments[2] == ACL


def test_old_clients_get_plain_byte_order(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path, orders=[(ipaddress.ip_network("127.0.0.0/8"), "strcmp")]) as master:
        client = master.connect()
        names = [*NAMES, *(b"user.n%04d.a-b" % number for number in range(1200))]
        fill(master, names)
        client.ok(b"DELETE", b"shared")
        names.remove(b"shared")
        assert [entry.name for entry in client.list()] == sorted(names)
        stream = master.stream()
        assert [line.arguments[0] for line in stream.first] == sorted(names)
        with pytest.raises(NeverHappened):
            stream.receive(0.3)  # its merge is right: nothing is repeated


def test_a_subscriber_that_reads_nothing_gets_bye_and_slows_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with InProcessMaster(tmp_path, feed_limit=500) as master:
        names = [b"user.s%05d" % number for number in range(4000)]
        deaf = master.raw(receive_buffer=4096)
        secret = base64.b64encode(b"\0murder\0murderpw")
        deaf.sendall(b'A AUTHENTICATE "PLAIN" "%s"\r\nU UPDATE\r\n' % secret)
        wait_until(lambda: len(master.feed), "it is subscribed")
        healthy = master.stream()
        big = b"x" * 2000
        client = master.connect()
        for name in names:
            client.send(b"F ACTIVATE " + b" ".join(map(literal, (name, LOCATION, big))) + b"\r\n")
            assert client.receive().verb == "OK"
            healthy.wait_for(holds(name), "the push", timeout_s=5)
            if len(master.feed) == 1:
                break
        else:
            pytest.fail("it was never sent away")
        assert read_all(deaf).endswith(b'* BYE "too slow, begin again"\r\n')
        assert "mupdate.subscriber_overflow" in capfd.readouterr().err


def test_a_client_that_does_not_take_its_list_is_cut_off(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with InProcessMaster(tmp_path, bounds=Bounds(slow_reader_s=0.3)) as master:
        client = master.connect()
        for number in range(300):
            activate(client, b"user.l%d" % number, acl=b"x" * 60_000)
        deaf = master.raw(receive_buffer=4096)
        wait_until(lambda: len(master.server) == 2, "it is connected")
        deaf.sendall(b'A AUTHENTICATE "PLAIN" "%s"\r\nL LIST\r\n' % base64.b64encode(b"\0murder\0murderpw"))
        wait_until(lambda: len(master.server) == 1, "it is gone")
        assert b"list complete" not in read_all(deaf)
        assert client.find(b"user.l1") is not None


def test_more_connections_than_allowed_are_told_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with InProcessMaster(tmp_path, bounds=Bounds(connections=3)) as master:
        admitted = [master.connect() for _ in range(3)]
        assert read_all(master.raw()) == b'* BYE "too many connections"\r\n'
        admitted.pop().close()
        wait_until(lambda: len(master.server) == 2, "a place is free")
        master.connect().ok(b"NOOP")


def test_a_stranger_has_so_much_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with InProcessMaster(tmp_path, bounds=Bounds(login_s=0.3)) as master:
        member = master.connect()
        silent, chatty = master.raw(), master.raw()
        chatty.sendall(b'A AUTHENTICATE "PLAIN"\r\n')
        assert read_all(silent).endswith(b'* BYE "login took too long"\r\n')
        assert read_all(chatty).endswith(b'* BYE "login took too long"\r\n')
        member.ok(b"NOOP")


def test_a_member_may_be_idle_for_so_long_and_a_subscriber_for_ever(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path, bounds=Bounds(idle_s=0.3)) as master:
        stream = master.stream()
        assert read_all(master.connect()._socket).endswith(b'* BYE "idle for too long"\r\n')
        stream.barrier()


def test_only_admins_with_their_password_may_log_in(master: InProcessMaster, capfd: pytest.CaptureFixture[str]) -> None:
    for secret in (b"\0murder\0wrong", b"\0alice\0alicepw", b"\0nobody\0x", b"junk", b"alice\0murder\0murderpw"):
        client = master.connect(user="")
        answer = client.command(b'AUTHENTICATE "PLAIN"', base64.b64encode(secret))[-1]
        assert (answer.verb, answer.text) == ("NO", "undefined error!"), secret
        assert client.command(b"NOOP")[-1].verb == "BAD"
        good = base64.b64encode(b"murder\0murder\0murderpw")
        assert client.command(b'AUTHENTICATE "PLAIN"', good)[-1].verb == "OK"
        client.ok(b"NOOP")
    log = capfd.readouterr().err
    assert "'alice' is not in admins" in log
    assert "murderpw" not in log
    assert "alicepw" not in log


def test_a_mechanism_that_is_not_offered_is_refused(master: InProcessMaster, capfd: pytest.CaptureFixture[str]) -> None:
    client = master.connect(user="")
    assert client.banner[0] == b'* AUTH "PLAIN"'
    answer = client.command(b'AUTHENTICATE "SCRAM-SHA-256"', base64.b64encode(b"n,,n=murder,r=x"))[-1]
    assert answer.verb == "NO"


def test_guessing_ends(master: InProcessMaster, capfd: pytest.CaptureFixture[str]) -> None:
    client = master.raw()
    attempt = b'A AUTHENTICATE "PLAIN" "%s"\r\n' % base64.b64encode(b"\0murder\0wrong")
    client.sendall(attempt * 20)
    heard = read_all(client)
    assert heard.count(b"A NO") == 5
    assert heard.endswith(b'* BYE "too many failed logins"\r\n')


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The log of the test, to be read again and again while it is written."""
    lines = io.StringIO()
    logging.setup("info", lines)
    yield lines
    logging.setup()


def test_a_failed_login_delays_its_own_client_only(tmp_path: Path, log: io.StringIO) -> None:
    """While many wait for their NO, everybody else logs in: their delay holds no thread and no place in a queue."""
    with InProcessMaster(tmp_path, failed_login_s=60.0) as master:
        wrong = b'A AUTHENTICATE "PLAIN" "%s"\r\n' % base64.b64encode(b"\0murder\0wrong")
        guessers = [master.raw() for _ in range(300)]  # more than the login pool has threads and places
        for guesser in guessers:
            guesser.sendall(wrong)

        def refused() -> int:
            master.on_loop(master.service.peer_log.tell)  # most lines are counted and not written
            counted = re.findall(r"of=mupdate\.login_failed .*lines=(\d+)", log.getvalue())
            return log.getvalue().count("event=mupdate.login_failed") + sum(map(int, counted))

        wait_until(lambda: refused() == len(guessers), "all of them are refused")
        assert log.getvalue().count("wrong user or password") > 0
        for _ in range(5):
            master.connect().ok(b"NOOP")
        for guesser in guessers:
            assert guesser.recv(65536).endswith(b'"(master)"\r\n')  # and no answer yet


def test_a_node_that_may_not_answer_says_nothing(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path, may_answer=False) as master:
        assert read_all(master.raw()) == b""


def test_the_end_is_told_to_all_and_leaves_nothing_unanswered(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path) as master:
        writer, stream, idle, stranger = master.connect(), master.stream(), master.connect(), master.raw()
        writer.send(b"".join(b"%d RESERVE %s %s\r\n" % (n, literal(b"n%d" % n), literal(LOCATION)) for n in range(50)))
        wait_until(lambda: master.writer.changes, "the first change")
        master.stop()
        heard = read_all(writer._socket)
        granted = heard.count(b' OK "done"\r\n')
        assert granted == master.writer.changes
        told = {client: read_all(client._socket) for client in (stream, idle)}
        assert all(heard.endswith(b'* BYE "server is shutting down"\r\n') for heard in told.values())
        assert told[stream].count(b" RESERVE ") == granted, "subscribers hear what was granted to the last"
        assert b"* BYE" in read_all(stranger)


def test_a_client_that_vanishes_leaves_no_trace(master: InProcessMaster) -> None:
    for action in (b"", b"A", b'A AUTHENTICATE "PLAIN"\r\n', b'A AUTHENTICATE "PLAIN" {10}\r\n'):
        client = master.raw()
        client.sendall(action)
        client.close()
    stream: UpdateStream = master.stream()
    stream.close()
    member = master.connect()
    member.send(b"1 RESERVE %s %s\r\n" % (literal(b"user.gone"), literal(LOCATION)))
    member.close()
    wait_until(lambda: len(master.server) == 0, "all sessions have ended")
    assert len(master.feed) == 0
    other = master.connect()
    other.ok(b"RESERVE", b"user.gone", LOCATION)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"user.alice", b"user.alice"),
        (b"user.alice.Secret.Love", b"user.alice.*"),
        (b"example.org!user.alice.Secret", b"example.org!user.alice.*"),
        (b"DELETED.user.alice.Secret.6B047356", b"DELETED.user.alice.*"),
        (b"shared.dept.news", b"shared.dept.news"),
        (b"user.a\nb.c", b"user.a\nb.*"),
    ],
)
def test_the_log_never_shows_a_user_s_folder(name: bytes, shown: bytes) -> None:
    assert without_folder(name) == shown


def test_a_refusal_is_logged_with_who_and_why(master: InProcessMaster, capfd: pytest.CaptureFixture[str]) -> None:
    client = master.connect()
    activate(client, b"user.alice.Secret")
    assert client.command(b"RESERVE", b"user.alice.Secret", b"be2!default")[-1].verb == "NO"
    log = capfd.readouterr().err
    assert 'command=RESERVE mailbox=user.alice.* location=be2!default reason="mailbox is held by be1"' in log
    assert "Secret" not in log


def test_a_client_that_asks_for_much_and_reads_nothing_is_not_served_ahead(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with InProcessMaster(tmp_path, bounds=Bounds(slow_reader_s=0.5)) as master:
        client = master.connect()
        activate(client, b"user.big", acl=b"x" * 900_000)
        deaf = master.raw(receive_buffer=4096)
        deaf.sendall(b'A AUTHENTICATE "PLAIN" "%s"\r\n' % base64.b64encode(b"\0murder\0murderpw"))
        wait_until(lambda: len(master.server) == 2, "it is connected")
        deaf.sendall(b'F FIND "user.big"\r\n' * 1000)
        wait_until(lambda: len(master.server) == 1, "it is cut off")
        assert len(read_all(deaf)) < 20_000_000


FIND = b"F FIND {6+}\r\nuser.a\r\n"


def test_a_member_that_only_asks_is_not_idle(tmp_path: Path) -> None:
    with InProcessMaster(tmp_path, bounds=Bounds(idle_s=2.0)) as master:
        client = master.connect()
        deadline = time.monotonic() + 0.3
        while (asked := time.monotonic()) < deadline:
            assert client.find(b"user.a") is None
        assert client.receive().verb == "BYE"
        assert time.monotonic() - asked >= 1.99


def test_a_find_behind_changes_sees_them_and_one_before_them_does_not(master: InProcessMaster) -> None:
    client = master.connect()
    activated = b"A ACTIVATE " + b" ".join(map(literal, (b"user.a", LOCATION, ACL))) + b"\r\n"
    client.send(FIND + FIND + activated + FIND + b"N NOOP\r\n" + FIND + b"F FIND {6+}\r\nuse")
    heard = [client.receive().verb for _ in range(8)]
    assert heard == ["OK", "OK", "OK", "MAILBOX", "OK", "OK", "MAILBOX", "OK"]
    client.send(b"r.a\r\n" + FIND)
    assert [client.receive().verb for _ in range(4)] == ["MAILBOX", "OK"] * 2


def test_finds_for_many_turns_let_others_in_between(master: InProcessMaster) -> None:
    fill(master, [b"user.a"])
    greedy, modest = master.raw(), master.connect()
    plain = base64.b64encode(b"\0murder\0murderpw")
    greedy.sendall(b'A AUTHENTICATE "PLAIN" "%s"\r\n' % plain)
    reader = greedy.makefile("rb")
    while not reader.readline().startswith(b"A OK"):
        pass
    sender = threading.Thread(target=greedy.sendall, args=(FIND * 50_000,))
    sender.start()
    for _ in range(20):
        assert modest.find(b"user.a") is not None
    answered = 0
    while answered < 50_000:
        answered += reader.readline() == b'F OK "Search completed"\r\n'
    sender.join(20)
    assert not sender.is_alive()
    reader.close()


def test_noop_is_a_barrier_among_many_subscribers(master: InProcessMaster) -> None:
    writer = master.connect()
    streams = [master.stream() for _ in range(SLICE + 20)]
    for number in range(20):
        activate(writer, b"user.n%d" % number)
        stream = streams[-1 - number]
        stream.barrier()
        assert b"user.n%d" % number in stream.mirror
    for stream in streams:
        stream.wait_for(lambda mirror: len(mirror) == 20, "all changes")


def test_a_client_that_stalls_in_its_list_lets_the_store_use_its_pages_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its walk is of one moment for a while only; how the store grows is the proof."""
    heavy = [
        MailboxRecord(b"user.u%05d" % number, State.ACTIVE, "be1", "p", b"x" * 6000, changed_at=1)
        for number in range(4000)
    ]
    with InProcessMaster(tmp_path) as master:
        with master.store.begin() as transaction:
            transaction.put_many(heavy)

        def stall() -> socket.socket:
            client = master.raw(receive_buffer=4096)
            plain = base64.b64encode(b"\0murder\0murderpw")
            client.sendall(b'A AUTHENTICATE "PLAIN" "%s"\r\nL LIST\r\n' % plain)
            while b"L MAILBOX" not in client.recv(4096):
                pass
            return client

        def grows_little() -> bool:
            before = master.store.stat().bytes_used
            for number in range(6):
                with master.store.begin() as transaction:
                    transaction.put_many([record._replace(server=f"be{number % 3}") for record in heavy[::50]])
            return master.store.stat().bytes_used - before < 1 << 20

        monkeypatch.setattr(reading, "SNAPSHOT_S", 3600)
        client = stall()
        for _ in range(3):
            assert not grows_little(), "the walk has no snapshot, or all was sent: this test says nothing"
        client.close()
        wait_until(grows_little, "the pages are used again after its end", timeout_s=30)
        monkeypatch.setattr(reading, "SNAPSHOT_S", 0.05)
        stall()
        wait_until(grows_little, "the pages are used again", timeout_s=30)
