"""Where a server is reached, with and without an entry."""

from __future__ import annotations

import pytest

from cyrusext.backends import Backend, Backends, split_server

BACKENDS = Backends({"be1": Backend("be1", "10.0.0.11", lmtp=2003), "be2": Backend("be2", imap=1143)})


@pytest.mark.parametrize(
    ("server", "protocol", "endpoint"),
    [
        ("be1", "lmtp", ("10.0.0.11", 2003)),
        ("be1", "imap", ("10.0.0.11", 143)),
        ("be2", "imap", ("be2", 1143)),
        ("be2:143", "lmtp", ("be2", 24)),
        ("be3.example", "lmtp", ("be3.example", 24)),
        ("be3.example", "sieve", ("be3.example", 4190)),
        ("be3.example:10143", "imap", ("be3.example", 10143)),
        ("be3.example:10143", "lmtp", ("be3.example", 24)),
        ("[2001:db8::1]:10143", "imap", ("2001:db8::1", 10143)),
        ("[2001:db8::1]", "pop3", ("2001:db8::1", 110)),
        ("2001:db8::1", "http", ("2001:db8::1", 80)),
        ("be3:99999", "imap", ("be3:99999", 143)),
    ],
)
def test_endpoint(server: str, protocol: str, endpoint: tuple[str, int]) -> None:
    assert BACKENDS.endpoint(server, protocol) == endpoint


def test_an_unknown_protocol_is_the_callers_fault() -> None:
    for server in ("be1", "other"):
        with pytest.raises(KeyError):
            BACKENDS.endpoint(server, "nntp")


def test_it_is_a_mapping() -> None:
    assert list(BACKENDS) == ["be1", "be2"]
    assert len(BACKENDS) == 2
    assert BACKENDS["be1"].state == "up"
    assert split_server("be1:143") == ("be1", 143)


@pytest.mark.parametrize(
    ("server", "name"),
    [
        ("be1.example.org", "be1.example.org"),
        ("10.0.0.9", "10.0.0.9"),
        ("by-address.example.org", "by-address.example.org"),
        ("be2", "imap2.example.org"),
        ("be3", "cert.example.org"),
        ("be4", "be4"),
        ("be4:143", "be4"),
        ("10.0.0.5", "10.0.0.6"),
    ],
)
def test_the_name_that_a_certificate_must_have(server: str, name: str) -> None:
    backends = Backends(
        {
            "by-address.example.org": Backend("by-address.example.org", host="10.0.0.1"),
            "be2": Backend("be2", host="imap2.example.org"),
            "be3": Backend("be3", host="10.0.0.3", tls_name="cert.example.org"),
            "be4": Backend("be4", host="10.0.0.4"),
            "10.0.0.5": Backend("10.0.0.5", host="10.0.0.6"),
        }
    )
    assert backends.certificate_name(server) == name
