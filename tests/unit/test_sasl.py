"""Logins: libsasl2 with its own sasldb, and the password file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cyrusext.errors import ConfigError
from cyrusext.net.sasl import FileLogins, LoginRefused, LoginUnavailable, installed_mechanisms

ROOT = Path(__file__).resolve().parents[2]

SASLDB = """
import sys
from cyrusext.net._sasl import ffi, lib
from cyrusext.net.sasl import LoginRefused, SaslLogins
logins = SaslLogins(service="mupdate", hostname="node1", realm=sys.argv[1], options={
    "pwcheck_method": "auxprop", "auxprop_plugin": "sasldb", "sasldb_path": sys.argv[2], "mech_list": "PLAIN"})
exchange = logins.exchange()
conn = exchange._holder[0]
assert lib.sasl_setpass(conn, b"murder", b"secret", 6, ffi.NULL, 0, lib.SASL_SET_CREATE) == lib.SASL_OK
exchange.close()

def login(initial):
    exchange = logins.exchange()
    try:
        return exchange.start("PLAIN", initial)
    finally:
        exchange.close()

step = login(b"\\0murder\\0secret")
assert (step.done, step.username) == (True, "murder"), step
assert login(b"murder\\0murder\\0secret").username == "murder"
for wrong in (b"\\0murder\\0wrong", b"\\0nobody\\0secret", b"", b"junk", b"other\\0murder\\0secret", b"\\0murder\\0"):
    try:
        login(wrong)
    except LoginRefused as error:
        assert "secret" not in str(error), error
    else:
        raise AssertionError(wrong)
exchange = logins.exchange()
first = exchange.start("PLAIN", None)
assert not first.done, first
assert exchange.step(b"\\0murder\\0secret").done
exchange.close()
exchange.close()
try:
    logins.exchange().start("NO-SUCH", b"")
except LoginRefused:
    print("good")
"""


@pytest.mark.parametrize("realm", ["", "cluster.example"])
def test_sasldb_through_libsasl2(tmp_path: Path, realm: str) -> None:
    # libsasl2's options are set once in a process, so the check has a process of its own
    command = [sys.executable, "-c", SASLDB, realm, str(tmp_path / "sasldb2")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr


MECHANISMS = """
import sys
from cyrusext.net._sasl import ffi, lib
from cyrusext.net.sasl import LoginRefused, Proved, SaslLogins, Step
from tests.harness.sasl_client import DigestMd5, Scram
NAMES = ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512", "DIGEST-MD5", "EXTERNAL"]
logins = SaslLogins(service="mupdate", hostname="node1", realm="lab", options={
    "pwcheck_method": "auxprop", "auxprop_plugin": "sasldb", "sasldb_path": sys.argv[1], "mech_list": " ".join(NAMES)})
exchange = logins.exchange()
assert lib.sasl_setpass(exchange._holder[0], b"murder", b"secret", 6, ffi.NULL, 0, lib.SASL_SET_CREATE) == lib.SASL_OK

def scram(mechanism, password="secret", authzid=""):
    exchange, client = logins.exchange(), Scram(mechanism, "murder", password, authzid)
    try:
        first = exchange.start(mechanism, client.first())
        assert not first.done
        last = exchange.step(client.final(first.challenge))
        assert not last.done, "the server's proof comes before the OK"
        client.verify(last.challenge)
        return exchange.step(b"")
    finally:
        exchange.close()

def digest(password="secret"):
    exchange, client = logins.exchange(), DigestMd5("murder", password, "node1")
    try:
        first = exchange.start("DIGEST-MD5", None)
        assert not first.done
        assert b'qop="auth"' in first.challenge, "no security layer is offered"
        last = exchange.step(client.final(first.challenge))
        assert not last.done
        client.verify(last.challenge)
        return exchange.step(b"")
    finally:
        exchange.close()

def external(proved, authzid=b""):
    exchange = logins.exchange(proved)
    try:
        return exchange.start("EXTERNAL", authzid)
    finally:
        exchange.close()

def refused(call, *arguments):
    try:
        step = call(*arguments)
    except LoginRefused as error:
        assert "secret" not in str(error)
    else:
        raise AssertionError((call, arguments, step))

done = Step(True, b"", "murder")
for mechanism in NAMES[1:4]:
    assert scram(mechanism) == done
    assert scram(mechanism, "secret", "murder") == done
    refused(scram, mechanism, "wrong")
    refused(scram, mechanism, "secret", "other")
assert digest() == done
refused(digest, "wrong")
assert external(Proved("murder", 256)) == done
assert external(Proved("murder", 256), b"murder") == done
assert external(Proved("murder@example.org", 256)).username == "murder@example.org"
assert external(Proved("alice", 256)).username == "alice"  # the session asks whether that is an admin
refused(external, Proved("alice", 256), b"murder")
refused(external, Proved("", 256))
refused(external, Proved("", 256), b"murder")
for other in ("LOGIN", "CRAM-MD5", "ANONYMOUS", "SCRAM-SHA-384", ""):
    refused(logins.exchange().start, other, b"")
print("good")
"""


def test_every_mechanism_through_libsasl2(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MECHANISMS, str(tmp_path / "sasldb2")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "good\n"), done.stderr


def test_the_installed_mechanisms_are_asked_of_libsasl2() -> None:
    assert installed_mechanisms() >= {
        "PLAIN",
        "SCRAM-SHA-1",
        "SCRAM-SHA-256",
        "SCRAM-SHA-512",
        "DIGEST-MD5",
        "EXTERNAL",
    }
    assert "NO-SUCH" not in installed_mechanisms()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    path = tmp_path / "passwords"
    path.write_text("# the murder\nmurder:pass:word\nother:x\n")
    path.chmod(0o600)
    return path


def test_password_file_takes_the_right_password_only(password_file: Path) -> None:
    logins = FileLogins(password_file)
    assert logins.exchange().start("plain", b"\0murder\0pass:word").username == "murder"
    assert logins.exchange().start("PLAIN", b"murder\0murder\0pass:word").done
    for wrong in (b"\0murder\0pass", b"\0murder\0", b"\0nobody\0x", b"\0\0", b"x", b"other\0murder\0pass:word"):
        with pytest.raises(LoginRefused):
            logins.exchange().start("PLAIN", wrong)
    with pytest.raises(LoginRefused):
        logins.exchange().start("SCRAM-SHA-1", b"n,,n=murder,r=x")


def test_password_file_is_asked_for_the_response_when_there_was_none(password_file: Path) -> None:
    exchange = FileLogins(password_file).exchange()
    assert exchange.start("PLAIN", None) == (False, b"", "")
    assert exchange.step(b"\0other\0x").username == "other"


def test_password_file_is_read_again_when_changed(password_file: Path) -> None:
    logins = FileLogins(password_file)
    fresh = password_file.with_name("fresh")
    fresh.write_text("murder:new\n")
    fresh.chmod(0o600)
    fresh.rename(password_file)
    assert logins.exchange().start("PLAIN", b"\0murder\0new").done
    password_file.unlink()
    with pytest.raises(LoginUnavailable):
        logins.exchange().start("PLAIN", b"\0murder\0new")


@pytest.mark.parametrize(
    ("text", "mode", "said"), [("murder:x\n", 0o644, "others"), ("murder\n", 0o600, ":1: expected")]
)
def test_password_file_that_is_wrong_is_refused(tmp_path: Path, text: str, mode: int, said: str) -> None:
    path = tmp_path / "passwords"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=said):
        FileLogins(path)
