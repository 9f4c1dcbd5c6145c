"""Assembling a node: what is checked before anything runs."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cyrusext.directory.modes import Mode
from cyrusext.errors import ConfigError, StoreError
from cyrusext.model import MailboxRecord, State
from cyrusext.mupdate.service import Service
from cyrusext.node.listeners import Listeners
from cyrusext.node.places import prepare_directories, settle_mode, state_lock
from cyrusext.node.reload import NEEDS_RESTART, settled
from cyrusext.node.settings import orders
from cyrusext.runtime.config import parse
from cyrusext.runtime.config_schema import SECTIONS, ClientOrder, MupdateSection
from cyrusext.store import Store


def test_the_most_specific_network_decides_the_order() -> None:
    section = MupdateSection(
        order=(
            ClientOrder(net="10.0.0.0/8", order="strcmp"),
            ClientOrder(net="10.1.0.0/16", order="cyrus"),
            ClientOrder(net="2001:db8::/32", order="strcmp"),
        )
    )
    service = Service.__new__(Service)
    object.__setattr__(service, "orders", orders(section))
    for host, wanted in [
        ("10.2.3.4", "strcmp"),
        ("10.1.3.4", "cyrus"),
        ("192.0.2.1", "cyrus"),
        ("2001:db8::1", "strcmp"),
        ("fe80::1%eth0", "cyrus"),
        ("", "cyrus"),
    ]:
        assert service.order_for(host) == wanted, host
    assert orders(section)[0][0] in (ipaddress.ip_network("2001:db8::/32"), ipaddress.ip_network("10.1.0.0/16"))


def test_the_state_lock_names_who_has_it(tmp_path: Path) -> None:
    taken = pytest.raises(StoreError, match=rf"another node \(process {os.getpid()}\)")
    with state_lock(tmp_path), taken, state_lock(tmp_path):
        pytest.fail("two nodes have one state")
    with state_lock(tmp_path):
        pass


def test_the_lock_of_a_dead_node_is_free(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from cyrusext.node.places import state_lock\n"
        "lock = state_lock(Path(sys.argv[1])); lock.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 9
    with state_lock(tmp_path):
        assert (tmp_path / "node.lock").read_text() == f"{os.getpid()}\n"


def test_a_state_dir_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = parse(f'[node]\nstate_dir = "{tmp_path}/file/state"\nrun_dir = "{tmp_path}/run"\n'.encode(), "x.toml")
    with pytest.raises(ConfigError, match=f"{tmp_path}/file/state can not be made: Not a directory"):
        prepare_directories(config)


def test_what_a_running_node_can_not_take_stays_and_is_named() -> None:
    running = parse(b'[node]\nname = "a"\n', "x.toml")
    wanted = parse(
        b'[node]\nname = "b"\nreader_group = "mail"\n[mupdate]\npwcheck = "saslauthd"\nadmins = ["x"]\n', "x.toml"
    )
    config, kept = settled(running, wanted)
    assert kept == ["[node] name", "[node] reader_group", "[mupdate] pwcheck"]
    assert (config.node, config.mupdate.pwcheck, config.mupdate.admins) == (running.node, "sasldb", ("x",))
    assert settled(running, running) == (running, [])


def test_every_key_that_needs_a_restart_exists() -> None:
    for section, keys in NEEDS_RESTART.items():
        assert set(keys) <= set(SECTIONS[section].__struct_fields__)


def test_listeners_are_had_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket() as taken, Listeners() as listeners:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        listeners.bind(["127.0.0.1:0"])
        with pytest.raises(ConfigError, match=f"can not listen on {busy}: Address already in use"):
            listeners.bind([f"unix:{path}", busy])
        assert listeners.addresses == ("127.0.0.1:0",)
        assert not path.exists()
        listeners.bind([f"unix:{path}"])
        assert path.is_socket()
        assert f"unix:{path}" in listeners.names()
    assert not path.exists()


def test_the_mode_is_kept_in_the_store(tmp_path: Path) -> None:
    record = MailboxRecord(b"user.alice", State.ACTIVE, "be1", "default")

    def opened() -> Store:
        return Store.open(tmp_path, run_dir=tmp_path, map_size=1 << 22)

    with opened() as store:
        settle_mode(store, Mode.REPLICATED)  # nothing is there yet
        settle_mode(store, Mode.UNIFIED)
        with store.begin() as transaction:
            transaction.put(record)
    with opened() as store:
        assert store.mode == "unified"
        settle_mode(store, Mode.STANDARD)
        with pytest.raises(ConfigError, match=r'the store has 1 records of mode "standard", .* "replicated"'):
            settle_mode(store, Mode.REPLICATED)
        assert store.mode == "standard"
