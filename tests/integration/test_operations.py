"""Can an operator stop, restart and watch the node while a murder runs, without anybody losing anything?"""

from __future__ import annotations

import json
import signal
import threading
import time

import pytest

from tests.harness import imap
from tests.harness.cyrus import LOSES_MASTER
from tests.harness.mupdate import Mupdate, UpdateStream, literal
from tests.harness.ours import Node
from tests.harness.server import ServerTrouble
from tests.harness.topology import Murder
from tests.harness.waiting import accepts, wait_until

pytestmark = pytest.mark.integration


def test_the_frontend_follows_a_node_that_was_restarted(murder_ours: Murder) -> None:
    murder, before, after = murder_ours, murder_ours.user(), murder_ours.user()
    murder.fe.expect(*LOSES_MASTER)
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{before}")
        murder.frontend_sees(lambda known: f"user.{before}" in known, "the first user")
        murder.node.restart()
        imap.create(admin, f"user.{after}")
    murder.frontend_sees(lambda known: {f"user.{before}", f"user.{after}"} <= known.keys(), "both users", 20)
    with murder.fe.imap(after) as connection:
        assert imap.listed(connection) == {"INBOX"}


def test_backends_go_on_with_a_node_that_was_restarted(murder_ours: Murder) -> None:
    """A backend connects for each change: it needs nothing but the node's port."""
    murder = murder_ours
    murder.fe.expect(*LOSES_MASTER)
    users = [murder.user() for _ in range(3)]
    with murder.be1.imap() as admin:
        for user in users:
            murder.node.restart()
            imap.create(admin, f"user.{user}")
    with murder.mupdate() as client:
        assert all(client.find(f"user.{user}".encode()) for user in users)


def test_sigterm_answers_what_it_has_taken_and_says_goodbye(murder_ours: Murder) -> None:
    """Commands sent before SIGTERM get their answers; subscribers see the end of the connection, not a hang."""
    murder, user = murder_ours, murder_ours.user()
    murder.fe.expect(*LOSES_MASTER)
    stream = UpdateStream(murder.node.address)
    writer = Mupdate(murder.node.address)
    names = [f"user.{user}.{number}".encode() for number in range(200)]
    for number, name in enumerate(names):
        writer.send(b"W%d ACTIVATE %s %s %s\r\n" % (number, literal(name), literal(b"be1.lab!default"), literal(b"")))
    answered = 1
    assert writer.receive().verb == "OK"
    murder.node.ask_to_stop()
    try:
        while (line := writer.receive()).verb == "OK":
            answered += 1
        assert line.verb in ("NO", "BYE"), line
    except ConnectionError:
        pass
    with pytest.raises(ConnectionError):
        while True:
            stream.receive(10)
    writer.close()
    stream.close()
    murder.node.finish_stop()
    murder.node.start()
    with murder.mupdate() as client:
        assert all(client.find(name) is not None for name in names[:answered])
        for name in names:
            client.ok(b"DELETE", name)


def test_sigterm_does_not_wait_for_idle_clients(murder_ours: Murder) -> None:
    murder = murder_ours
    murder.fe.expect(*LOSES_MASTER)
    idle = [Mupdate(murder.node.address) for _ in range(5)]
    silent = Mupdate(murder.node.address, user="")
    began = time.monotonic()
    murder.node.stop()
    assert time.monotonic() - began < 10, "the drain is bounded"
    for client in (*idle, silent):
        client.close()
    murder.node.start()


def test_a_second_node_on_the_same_store_is_refused(murder_ours: Murder) -> None:
    murder = murder_ours
    second = Node(murder.network.address(30), murder.state / "second", {})
    second.config["node"]["state_dir"] = murder.node.config["node"]["state_dir"]
    second.configure()
    with pytest.raises(ServerTrouble, match="did not start"):
        second.start(15)
    second.wait_log(r"in use by another node \(process \d+\)")
    assert not accepts(second.address, 3905)
    second.forgive()
    second.close()
    with murder.mupdate() as client:  # and the first one has not noticed
        client.ok(b"NOOP")


def test_a_node_killed_a_moment_ago_starts_again(murder_ours: Murder) -> None:
    """No lock, socket or pid file of the dead one is in the way."""
    murder, user = murder_ours, murder_ours.user()
    murder.fe.expect(*LOSES_MASTER)
    with murder.be1.imap() as admin:
        imap.create(admin, f"user.{user}")
    murder.node.kill()
    murder.node.start(10)
    with murder.mupdate() as client:
        assert client.find(f"user.{user}".encode()) is not None


def test_a_change_while_the_node_is_down_is_refused_and_undone(murder_ours: Murder) -> None:
    murder, user = murder_ours, murder_ours.user()
    murder.fe.expect(*LOSES_MASTER)
    murder.be1.expect(*LOSES_MASTER)
    murder.node.stop()
    try:
        assert not murder.be1.try_create(f"user.{user}")
        with murder.be1.imap() as admin:
            assert imap.listed(admin, f"user.{user}") == set()
    finally:
        murder.node.start()
    assert murder.be1.try_create(f"user.{user}")
    murder.frontend_sees(lambda known: f"user.{user}" in known, "the second try", 20)


def test_an_acl_changed_while_the_node_was_down_is_pushed_later(murder_ours: Murder) -> None:
    """Cyrus keeps the ACL that it could not tell; ``ctl_mboxlist -m`` tells it."""
    murder, user = murder_ours, murder_ours.user()
    name = f"user.{user}"
    murder.fe.expect(*LOSES_MASTER)
    murder.be1.expect(r"(?i)mupdate", *LOSES_MASTER)
    with murder.be1.imap() as admin:
        imap.create(admin, name)
        murder.node.stop()
        try:
            with pytest.raises(imap.Refused):
                imap.ok(admin.setacl(name, "friend", "lrs"))
        finally:
            murder.node.start()
    with murder.mupdate() as client:
        entry = client.find(name.encode())
        assert entry is not None and entry.acl is not None and b"friend" not in entry.acl
        murder.be1.tool("ctl_mboxlist", "-m")
        entry = client.find(name.encode())
        assert entry is not None and entry.acl is not None and b"friend\tlrs\t" in entry.acl


def test_a_hung_node_holds_up_a_create_and_not_for_ever(murder_ours: Murder) -> None:
    """Cyrus' client waits 10 s for the greeting.  A node that wakes in time has the CREATE succeed."""
    murder, user = murder_ours, murder_ours.user()
    murder.fe.expect(*LOSES_MASTER)
    murder.node.hang()
    woken = threading.Timer(2.0, murder.node.resume)
    woken.start()
    try:
        with murder.be1.imap() as admin:
            imap.create(admin, f"user.{user}")
    finally:
        woken.join()
        murder.node.resume()
    with murder.mupdate() as client:
        assert client.find(f"user.{user}".encode()) is not None


def test_status_lookup_and_list_tell_what_the_backends_told(murder_ours: Murder) -> None:
    murder, user = murder_ours, murder_ours.user()
    with murder.be2.imap() as admin:
        imap.create(admin, f"user.{user}")
    status = json.loads(murder.node.cli("status", "--format", "json").stdout)
    assert status["servers"]["be2.lab"] >= 1
    found = json.loads(murder.node.cli("lookup", f"user.{user}", "--format", "json").stdout)
    assert "be2.lab" in json.dumps(found)
    listed = murder.node.cli("mailbox", "list", "--prefix", f"user.{user}", "--format", "tsv").stdout
    assert f"user.{user}" in listed
    assert "be2.lab" in listed


def test_status_of_a_stopped_node_is_69(murder_ours: Murder) -> None:
    murder = murder_ours
    murder.fe.expect(*LOSES_MASTER)
    murder.node.stop()
    try:
        assert murder.node.cli("status", check=False).returncode == 69
    finally:
        murder.node.start()


def test_a_record_set_by_hand_reaches_the_frontend(murder_ours: Murder) -> None:
    murder, user = murder_ours, murder_ours.user()
    murder.node.cli("mailbox", "set", f"user.{user}", "be1.lab!default", f"{user}\tlrswipkxtecdan\t")
    murder.frontend_sees(lambda known: f"user.{user}" in known, "the record")
    murder.node.cli("mailbox", "delete", f"user.{user}")
    murder.frontend_sees(lambda known: f"user.{user}" not in known, "its end")


def test_the_log_is_one_line_for_each_event_without_a_password(murder_ours: Murder) -> None:
    lines = murder_ours.node.log_lines()
    assert any("event=node.ready" in line for line in lines)
    assert all("level=" in line and "event=" in line for line in lines if line.strip()), lines[:5]
    assert not any("murderpw" in line for line in lines)


def test_sigint_stops_it_too(murder_ours: Murder) -> None:
    murder = murder_ours
    murder.fe.expect(*LOSES_MASTER)
    running = murder.node.pid
    import os

    os.kill(running, signal.SIGINT)
    wait_until(lambda: not murder.node.running, "the node ends", 15)
    murder.node.stop()
    murder.node.start()
