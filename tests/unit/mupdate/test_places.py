"""Who has to leave when all places are taken: the table, and over real connections."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cyrusext.mupdate.places import SHARE, Places
from cyrusext.mupdate.service import Bounds
from cyrusext.runtime import logging
from tests.harness.inprocess import ADDRESS, InProcessMaster
from tests.harness.mupdate import Mupdate
from tests.harness.waiting import wait_until

BYE = b'* BYE "too many connections"\r\n'


def test_the_oldest_stranger_gives_way_and_no_member() -> None:
    places: Places[str] = Places()
    for guest in ("a", "b", "c"):
        places.enter(guest, f"10.0.0.{guest}")
    places.admitted("a")
    places.admitted("a")
    assert places.gives_way("10.0.0.d", 3) == "b"
    places.leave("b")
    places.leave("b")
    assert places.gives_way("10.0.0.d", 3) == "c"
    places.admitted("c")
    assert places.gives_way("10.0.0.d", 3) is None
    assert (len(places), places.strangers, list(places)) == (2, 0, ["a", "c"])


def test_an_address_with_more_than_its_share_pays_for_its_own() -> None:
    places: Places[int] = Places()
    total = 4 * SHARE
    places.enter(0, "backend")
    for guest in range(1, total):
        places.enter(guest, "hostile")
    assert places.gives_way("hostile", total) == 1
    assert places.gives_way("another", total) == 0, "who has been a stranger for longest, whoever it is"
    for guest in range(1, total - total // SHARE):
        places.leave(guest)
    assert places.gives_way("hostile", total) == 0, "no more than its share"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    lines = io.StringIO()
    logging.setup("info", lines)
    yield lines
    logging.setup()


def stranger(master: InProcessMaster, host: str = ADDRESS) -> socket.socket:
    """A greeted connection from `host` that says nothing."""
    client = socket.create_connection((ADDRESS, master.port), timeout=20, source_address=(host, 0))
    heard = b""
    while not heard.endswith(b'"(master)"\r\n'):
        data = client.recv(4096)
        assert data, heard
        heard += data
    return client


def is_there(client: socket.socket) -> bool:
    """Whether the server still talks to `client`, which has nothing to read."""
    client.sendall(b"N NOOP\r\n")
    return client.recv(4096) == b'N BAD "Please login first"\r\n'


def test_silent_strangers_keep_no_backend_out(tmp_path: Path, log: io.StringIO) -> None:
    """Many times as many as there are places; each login in between succeeds, and so does each command of a member."""
    with InProcessMaster(tmp_path, bounds=Bounds(connections=20)) as master:
        member, silent = master.connect(), []
        for number in range(100):
            silent.append(stranger(master))
            if number % 10 == 9:
                with Mupdate(ADDRESS, master.port) as backend:
                    backend.ok(b"ACTIVATE", b"user.u%d" % number, b"be1!default", b"a\tl\t")
                member.ok(b"NOOP")
        assert len(master.server) <= 20
        assert silent[0].recv(4096) == BYE
        assert silent[0].recv(4096) == b""
        assert is_there(silent[-1])
        assert log.getvalue().count("event=mupdate.gave_way") == 1, "the log is not flooded"
        for client in silent:
            client.close()
        wait_until(lambda: len(master.server) == 1, "only the member is left")


def test_a_flood_from_one_address_leaves_those_of_others_alone(tmp_path: Path, log: io.StringIO) -> None:
    """A slow login elsewhere goes on, for as long as it may take, while one address comes again and again."""
    with InProcessMaster(tmp_path, bounds=Bounds(connections=SHARE)) as master:
        slow = stranger(master, "127.0.0.2")
        flood = [stranger(master) for _ in range(5 * SHARE)]
        assert is_there(slow)
        assert is_there(flood[-1])
        assert flood[0].recv(4096) == BYE
        for client in (slow, *flood):
            client.close()


def test_members_are_never_sent_away_for_strangers(tmp_path: Path, log: io.StringIO) -> None:
    with InProcessMaster(tmp_path, bounds=Bounds(connections=3)) as master:
        member, stream, _ = master.connect(), master.stream(), master.connect()
        for _ in range(5):
            client = master.raw()
            assert client.recv(4096) == BYE
            assert client.recv(4096) == b""
        member.ok(b"NOOP")
        stream.barrier()
        assert master.server.turned_away == 5
        assert log.getvalue().count("event=mupdate.turned_away") == 1
