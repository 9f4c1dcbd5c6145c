"""Assembling a node: what is checked before anything runs."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cyrusext import node
from cyrusext.errors import ConfigError, StoreError
from cyrusext.mupdate.service import Service
from cyrusext.runtime.config import parse
from cyrusext.runtime.config_schema import ClientOrder, MupdateSection


def test_the_most_specific_network_decides_the_order() -> None:
    section = MupdateSection(
        order=(
            ClientOrder(net="10.0.0.0/8", order="strcmp"),
            ClientOrder(net="10.1.0.0/16", order="cyrus"),
            ClientOrder(net="2001:db8::/32", order="strcmp"),
        )
    )
    service = Service.__new__(Service)
    object.__setattr__(service, "orders", node.orders(section))
    for host, order in [
        ("10.2.3.4", "strcmp"),
        ("10.1.3.4", "cyrus"),
        ("192.0.2.1", "cyrus"),
        ("2001:db8::1", "strcmp"),
        ("fe80::1%eth0", "cyrus"),
        ("", "cyrus"),
    ]:
        assert service.order_for(host) == order, host
    assert node.orders(section)[0][0] in (ipaddress.ip_network("2001:db8::/32"), ipaddress.ip_network("10.1.0.0/16"))


def test_the_state_lock_names_who_has_it(tmp_path: Path) -> None:
    taken = pytest.raises(StoreError, match=rf"another node \(process {os.getpid()}\)")
    with node.state_lock(tmp_path), taken, node.state_lock(tmp_path):
        pytest.fail("two nodes have one state")
    with node.state_lock(tmp_path):
        pass


def test_the_lock_of_a_dead_node_is_free(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from cyrusext import node\n"
        "lock = node.state_lock(Path(sys.argv[1])); lock.__enter__(); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode == 9
    with node.state_lock(tmp_path):
        assert (tmp_path / "node.lock").read_text() == f"{os.getpid()}\n"


def test_a_state_dir_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = parse(f'[node]\nstate_dir = "{tmp_path}/file/state"\nrun_dir = "{tmp_path}/run"\n'.encode(), "x.toml")
    with pytest.raises(ConfigError, match=f"{tmp_path}/file/state can not be made: Not a directory"):
        node.prepare_directories(config)


def test_reloading_takes_the_level_and_survives_a_bad_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[log]\nlevel = "info"\n')
    config = parse(file.read_bytes(), str(file))
    file.write_text("[log]\nlevel = 7\n")
    node.reload(config)
    assert "event=node.reload_failed" in capsys.readouterr().err
    file.write_text('[log]\nlevel = "debug"\n')
    node.reload(config)
    node.log.debug("seen")
    assert "event=seen" in capsys.readouterr().err
    file.write_text('[log]\nlevel = "info"\n')
    node.reload(config)
