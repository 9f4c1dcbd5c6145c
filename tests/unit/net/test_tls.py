"""The TLS settings of a server, and whom a client's certificate names."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from cyrusext.errors import ConfigError
from cyrusext.net.tls import ServerTls, identity_of
from tests.harness.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def subject(*names: str) -> dict[str, Any]:
    return {"subject": tuple((("commonName", name),) for name in names)}


@pytest.mark.parametrize(
    ("certificate", "identity"),
    [
        (None, ""),
        ({}, ""),
        (subject("murder"), "murder"),
        ({"subject": ((("organizationName", "x"), ("commonName", "murder")),)}, "murder"),
        (subject("murder") | {"subjectAltName": (("email", "other@example.org"),)}, "murder"),
        ({"subject": (), "subjectAltName": (("DNS", "a"), ("email", "murder@example.org"))}, "murder@example.org"),
        ({"subject": (), "subjectAltName": (("email", "a@b"), ("email", "c@d"))}, ""),
        (subject("murder", "other"), ""),
        (subject("murder\0.example"), ""),
        (subject("murder\n"), ""),
        (subject(""), ""),
    ],
)
def test_identity(certificate: dict[str, Any] | None, identity: str) -> None:
    assert identity_of(certificate) == identity


def test_the_least_is_tls_1_2_and_a_client_certificate_is_asked_for_but_not_required(authority: Authority) -> None:
    made = authority.issue("server", "/CN=mup.lab")
    plain = ServerTls(str(made.cert), str(made.key)).context
    assert plain.minimum_version == ssl.TLSVersion.TLSv1_2
    assert plain.verify_mode == ssl.CERT_NONE
    assert ServerTls(str(made.cert), str(made.key), str(authority.ca)).context.verify_mode == ssl.CERT_OPTIONAL


def test_certificate_and_key_may_be_one_file(authority: Authority, tmp_path: Path) -> None:
    made = authority.issue("server", "/CN=mup.lab")
    both = tmp_path / "both.pem"
    both.write_bytes(made.cert.read_bytes() + made.key.read_bytes())
    assert ServerTls(str(both)).context


@pytest.mark.parametrize(
    ("cert", "key", "ca", "said"),
    [
        ("server.pem", "absent.key", "", r"absent\.key can not be read"),
        ("server.pem", "other.key", "", "no certificate with its key"),
        ("server.key", "server.key", "", "no certificate with its key"),
        ("server.pem", "", "", "no certificate with its key"),
        ("server.pem", "server.key", "server.key", "no certificates in PEM"),
    ],
)
def test_files_that_do_not_fit_are_named(authority: Authority, cert: str, key: str, ca: str, said: str) -> None:
    place = authority.issue("server", "/CN=mup.lab").cert.parent
    authority.issue("other", "/CN=other")
    with pytest.raises(ConfigError, match=said):
        ServerTls(str(place / cert), str(place / key) if key else "", str(place / ca) if ca else "")


def test_a_reload_that_fails_leaves_what_was(authority: Authority) -> None:
    made = authority.issue("server", "/CN=mup.lab")
    tls = ServerTls(str(made.cert), str(made.key))
    first = tls.context
    tls.reload()
    second = tls.context
    assert second is not first
    made.cert.write_text("broken")
    with pytest.raises(ConfigError):
        tls.reload()
    assert tls.context is second
