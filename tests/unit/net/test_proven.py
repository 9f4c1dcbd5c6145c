"""Logins that are remembered: until the file with the passwords changes in any way, and never of a file in motion."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cyrusext.net import proven as proven_module
from cyrusext.net.proven import LIMIT, Proof, Proven
from cyrusext.net.sasl import FileLogins, LoginRefused
from cyrusext.net.stamp import AT_REST_NS, Stamp, stamp_of

GOOD, BAD = b"\0murder\0secret", b"\0murder\0other"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "passwords"
    path.write_text("murder:secret\n")
    path.chmod(0o600)
    return path


def learn(proven: Proven, message: bytes = GOOD, user: str = "murder") -> None:
    """Have a login remembered, as if the file had been at rest for long."""
    proof = proven.ask(message)
    assert isinstance(proof, Proof), proof
    proven.remember(proof, user, time.time_ns() + 2 * AT_REST_NS)


def test_the_same_login_is_known_and_no_other(file: Path) -> None:
    proven = Proven(file)
    learn(proven)
    assert proven.ask(GOOD) == "murder"
    for other in (BAD, b"", b"\0murder\0secre", b"\0murder\0secret\0", b"murder\0murder\0secret", b"\0alice\0secret"):
        assert isinstance(proven.ask(other), Proof), other
    assert isinstance(Proven(file).ask(GOOD), Proof), "each has a key and a memory of its own"


def rewrite(file: Path) -> None:
    file.write_text("murder:SECRET\n")  # of the same length


def replace(file: Path) -> None:
    """Another file of the same length and with the same time of modification takes its name."""
    was = file.stat()
    fresh = file.with_name("fresh")
    fresh.write_text("murder:SECRET\n")
    os.utime(fresh, ns=(was.st_atime_ns, was.st_mtime_ns))
    fresh.rename(file)


def forge_time(file: Path) -> None:
    """Written in place, and its time of modification set back: the time of change can not be."""
    was = file.stat()
    rewrite(file)
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))


def grow(file: Path) -> None:
    with file.open("a") as more:
        more.write("x:y\n")


def open_to_all(file: Path) -> None:
    file.chmod(0o644)


@pytest.mark.parametrize("change", [rewrite, replace, forge_time, grow, open_to_all, Path.unlink])
def test_any_change_of_the_file_forgets(file: Path, change: Callable[[Path], None]) -> None:
    proven = Proven(file)
    learn(proven)
    wait_for_another_time(file)
    change(file)
    assert not isinstance(proven.ask(GOOD), str)
    assert len(proven) == 0


def wait_for_another_time(file: Path) -> None:
    """Until the file system's clock has moved on, as it has long done when a file is at rest."""
    probe = file.with_name("probe")
    while True:
        probe.write_text("")
        if probe.stat().st_ctime_ns > file.stat().st_ctime_ns:
            return


def test_a_file_that_was_changed_just_now_is_not_believed(file: Path) -> None:
    """Changed twice within one tick of the file system's clock, it would have one stamp for two contents."""
    proven = Proven(file)
    proof = proven.ask(GOOD)
    assert isinstance(proof, Proof)
    proven.remember(proof, "murder")
    assert len(proven) == 0
    changed = file.stat().st_ctime_ns
    for age, known in ((AT_REST_NS - 1, 0), (-AT_REST_NS, 0), (AT_REST_NS, 1)):
        proven.remember(proof, "murder", changed + age)
        assert len(proven) == known


def test_twice_changed_within_one_tick_is_refused_at_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamp stays the same over both changes; the second password is asked for at the very next login."""
    logins, stamp = FileLogins(file), stamp_of(file)
    assert stamp is not None
    frozen = Stamp(*stamp[:3], time.time_ns(), time.time_ns())
    monkeypatch.setattr("cyrusext.net.sasl.Stamp.of", lambda _status: frozen)
    monkeypatch.setattr(proven_module, "stamp_of", lambda _path: frozen)
    for password, old in (("first", "secret"), ("again", "first")):
        file.write_text(f"murder:{password}\n")
        message = f"\0murder\0{password}".encode()
        proof = logins.proven.ask(message)
        assert isinstance(proof, Proof)
        assert logins.exchange().start("PLAIN", message).done
        logins.proven.remember(proof, "murder")
        with pytest.raises(LoginRefused):
            logins.exchange().start("PLAIN", f"\0murder\0{old}".encode())
        assert not isinstance(logins.proven.ask(message), str)


def test_what_changed_while_it_was_asked_is_not_remembered(file: Path) -> None:
    proven = Proven(file)
    proof = proven.ask(GOOD)
    assert isinstance(proof, Proof)
    wait_for_another_time(file)
    rewrite(file)
    proven.remember(proof, "murder", time.time_ns() + 2 * AT_REST_NS)
    assert len(proven) == 0
    proven.ask(BAD)  # has seen the new stamp
    proven.remember(proof, "murder", time.time_ns() + 2 * AT_REST_NS)
    assert len(proven) == 0


def test_so_many_are_remembered_and_the_oldest_goes(file: Path) -> None:
    proven = Proven(file)
    for number in range(LIMIT + 1):
        learn(proven, b"\0user%d\0x" % number, f"user{number}")
    assert len(proven) == LIMIT
    assert proven.ask(b"\0user1\0x") == "user1"
    assert isinstance(proven.ask(b"\0user0\0x"), Proof)


def test_of_no_file_nothing_is_known(file: Path) -> None:
    assert Proven(file.parent).ask(GOOD) is None
    assert Proven(file.with_name("none")).ask(GOOD) is None
