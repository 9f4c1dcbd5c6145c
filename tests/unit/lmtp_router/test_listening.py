"""Which sockets a worker takes mail from, and that none is closed while its address is wanted."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cyrusext.errors import ConfigError
from lmtp_router.listening import Listening


def test_each_worker_has_a_socket_and_all_share_the_unix_one(tmp_path: Path) -> None:
    unix = f"unix:{tmp_path}/s"
    with Listening() as listening:
        assert listening.bind(["127.0.0.1:0", unix], 3) == ["127.0.0.1:0", unix]
        sets = [listening.of(["127.0.0.1:0", unix], place, 3) for place in range(3)]
        assert len({sock.fileno() for sockets in sets for sock in sockets}) == 4
        assert all(sockets[1] is sets[0][1] for sockets in sets)
        assert len({sockets[0].getsockname() for sockets in sets}) == 1
        assert len(listening.names()) == 2
    assert not (tmp_path / "s").exists()


def test_fewer_workers_share_what_there_is_and_more_get_more() -> None:
    with Listening() as listening:
        listening.bind(["127.0.0.1:0"], 4)
        few = [listening.of(["127.0.0.1:0"], place, 2) for place in range(2)]
        assert [len(sockets) for sockets in few] == [2, 2]
        assert listening.bind(["127.0.0.1:0"], 6) == []
        assert all(len(listening.of(["127.0.0.1:0"], place, 6)) == 1 for place in range(6))


def test_an_address_that_can_not_be_had_leaves_none_of_the_new_ones() -> None:
    with socket.socket() as taken, Listening() as listening:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listening.bind(["127.0.0.1:0"], 1)
        with pytest.raises(ConfigError, match="can not listen on"):
            listening.bind(["localhost:0", f"127.0.0.1:{taken.getsockname()[1]}"], 1)
        assert listening.addresses == ("127.0.0.1:0",)
