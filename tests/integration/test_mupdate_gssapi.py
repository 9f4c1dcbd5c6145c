"""Does a Cyrus client log in with a Kerberos ticket?  MIT's KDC, Cyrus' own `mupdatetest`, our node."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import roots
from tests.harness.cyrus import PEER
from tests.harness.kerberos import REALM, Kdc
from tests.harness.network import Network
from tests.harness.ours import Node

pytestmark = pytest.mark.integration

HOST = "mup.lab"


def test_a_ticket_logs_in_and_only_an_admin_s(root: roots.Root, new_state: Callable[[], Path]) -> None:
    """`root` is asked for so that a machine that can not have one says so.

    This machine's libsasl2 loads the plug-in of the layer: that is of the older release, which newer libraries take.
    """
    state, network = new_state(), Network()
    layer = roots.build("bookworm", "kerberos")
    try:
        address = network.address(10)
        kdc = Kdc(network.address(30), state / "kdc", layer, host=HOST, host_address=address)
        keys = {name: kdc.keytab(name) for name in (PEER, "alice", f"mupdate/{HOST}")}
        mupdate = {"pwcheck": "sasldb", "password_file": "", "mechanisms": ["GSSAPI"], "realm": REALM}
        node = Node(address, state / "node", {}, {"mupdate": mupdate}, name=HOST)
        node.extra_environment = kdc.environment_of(keys[f"mupdate/{HOST}"])
        node.configure()
        with contextlib.closing(kdc), contextlib.closing(node):
            kdc.start()
            node.start()
            heard = kdc.mupdatetest(PEER, keys[PEER])
            assert 'S: * AUTH "GSSAPI"' in heard
            assert 'A01 OK "Authenticated"' in heard, heard
            assert "Security strength factor: 0" in heard, "TLS is what encrypts"
            node.wait_log(rf"event=mupdate\.login .*user={PEER} mechanism=GSSAPI")
            heard = kdc.mupdatetest("alice", keys["alice"])
            assert "Authenticated." not in heard
            node.wait_log(r"event=mupdate\.login_failed .*'alice' is not in admins")
    finally:
        network.close()
