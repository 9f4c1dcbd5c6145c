"""The configuration: defaults, what it converts to, how it is shown, and that its documentation is current."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cyrusext.backends import Backend
from cyrusext.errors import ConfigError
from cyrusext.names import NameRules
from cyrusext.runtime import config as config_module
from cyrusext.runtime.config import Config, load, parse
from cyrusext.runtime.config_check import NOT_YET, findings, require
from cyrusext.runtime.config_doc import document, to_toml
from cyrusext.runtime.config_schema import SECTIONS, parse_size
from lmtp_router.settings import settings_of
from tests.harness.certificates import Authority

ROOT = Path(__file__).parents[2]

FULL = """
[node]
name = "node2"
state_dir = "/srv/cyrusext"

[names]
virtdomains = true
default_domain = "example.org"
postuser = "po\\u0073t \\"x\\""

[mupdate]
listen = ["127.0.0.1:3905", "[::1]:3905", "unix:/run/cyrusext/mupdate"]
mechanisms = ["PLAIN", "SCRAM-SHA-256"]
write_wait_s = 2
order = [{ net = "10.1.0.0/16", order = "strcmp" }]

[backends.be1]
host = "10.0.0.11"
lmtp = 2003
tags = ["ssd", "eu"]

[backends."be2.example"]
weight = 2

[lmtp]
body_buffer = "256KiB"
timeouts = { connect = 1 }
"""


def test_an_empty_file_is_the_default() -> None:
    assert parse(b"", "(defaults)") == Config()


def test_values_arrive_typed() -> None:
    config = parse(FULL.encode(), "f.toml")
    assert config.node.state_dir == Path("/srv/cyrusext")
    assert config.names.rules() == NameRules(True, "example.org", postuser='post "x"')
    assert config.mupdate.write_wait_s == 2.0
    assert config.mupdate.order[0].order == "strcmp"
    assert config.backends["be1"] == Backend("be1", "10.0.0.11", lmtp=2003, tags=("ssd", "eu"))
    assert config.backends.endpoint("be2.example", "lmtp") == ("be2.example", 24)
    assert (config.lmtp.body_buffer_bytes, config.lmtp.max_size_bytes) == (256 << 10, 50 << 20)
    assert (config.lmtp.timeouts.connect, config.lmtp.timeouts.final) == (1.0, 300.0)


@pytest.mark.parametrize("text", ["", FULL, '[ldap]\nuris = ["ldap://a"]\n'])
def test_what_is_shown_reads_back_as_the_same(text: str) -> None:
    config = parse(text.encode(), "f.toml")
    assert parse(to_toml(config).encode(), "f.toml") == config


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tmp_path / "absent.toml"
    with pytest.raises(ConfigError, match=r"absent\.toml: no such file"):
        load(absent)
    monkeypatch.setattr(config_module, "DEFAULT_PATH", absent)
    assert load() == Config()
    absent.write_text("[node]\nname = 'here'\n")
    assert load().node.name == "here"
    with pytest.raises(ConfigError, match="can not be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("512", 512), ("512B", 512), ("64KiB", 65536), ("1 MiB", 1 << 20), ("2GiB", 2 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1MB", "1.5MiB", "-1", "1mib", "1" * 13, "١"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("path", "words"),
    [("mupdate.target", "expected the absolute path of a socket"), (f"/{'x' * 108}/mupdate.target", "107 bytes")],
)
def test_a_kick_socket_must_be_one(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"f.toml: \[lookup\] kick_sockets: .*{words}"):
        parse(f'[lookup]\nkick_sockets = ["{path}"]\n'.encode(), "f.toml")


def test_the_defaults_can_run() -> None:
    assert findings(Config()) == []
    assert require(Config(), "node") == []
    assert require(Config(), "lmtp-router") == []
    assert require(parse(b'[lmtp]\nlisten = []\nsmtp_listen = ["127.0.0.1:25"]', "f.toml"), "lmtp-router") == []


@pytest.mark.parametrize(
    ("text", "key", "words", "fatal"),
    [
        ('[mupdate]\nlisten = ["0.0.0.0:3905"]', "listen", "PLAIN needs TLS", True),
        ('[mupdate]\nlisten = [":3905"]', "listen", "PLAIN needs TLS", True),
        ('[mupdate]\nlisten = ["mupdate.example:3905"]', "listen", "PLAIN needs TLS", True),
        ("[mupdate]\nlisten = []", "listen", "at least one", True),
        ("[mupdate]\nadmins = []", "admins", "nobody can log in", True),
        ("[mupdate]\nmechanisms = []", "mechanisms", "nobody can log in", True),
        ('[mupdate]\npwcheck = "file"', "password_file", "expected a file", True),
        ('[mupdate]\npwcheck = "file"\npassword_file = "/nonexistent"', "password_file", "can not be read", True),
        ('[mupdate]\npassword_file = "/etc/hostname"', "password_file", "no effect", False),
        ('[mupdate]\nlisten = [":3905"]\nmechanisms = ["PLAIN", "EXTERNAL"]', "listen", "PLAIN needs TLS", True),
        ('[mupdate]\nmechanisms = ["PLAIN", "CRAM-MD5", "SCRAM-SHA-1-PLUS"]', "mechanisms", "SCRAM-SHA-1-PLUS", True),
        ('[mupdate]\nmechanisms = ["GSSAPI"]', "mechanisms", "no GSSAPI (Debian: libsasl2-modules-gssapi-mit)", True),
        ('[mupdate]\npwcheck = "file"\nmechanisms = ["PLAIN", "SCRAM-SHA-1"]', "mechanisms", "PLAIN only", True),
        ('[mupdate]\npwcheck = "saslauthd"\nmechanisms = ["PLAIN", "DIGEST-MD5"]', "mechanisms", "saslauthd", True),
        ('[mupdate]\nmechanisms = ["EXTERNAL"]', "mechanisms", "needs client certificates", True),
        ('[mupdate]\ntls_key = "/dev/null"', "tls_key", "without tls_cert", True),
        ('[mupdate]\ntls_client_ca = "/dev/null"', "tls_client_ca", "without tls_cert", True),
        ('[mupdate]\ntls_cert = "/nonexistent"', "tls_cert", "can not be read", True),
        ('[mupdate]\ntls_cert = "/dev/null"', "tls_cert", "no certificate with its key", True),
        ('[mupdate]\nsasldb_path = "/nonexistent"', "sasldb_path", "can not be read", True),
        ('[lmtp]\nlisten = ["0.0.0.0:24"]', "listen", "anybody could deliver", True),
        ('[lmtp]\nlisten = ["0.0.0.0:24"]', "listen", "nobody may deliver there", True),
        ("[lmtp]\nlisten = []", "listen", "at least one", True),
        ('[lmtp]\nsmtp_listen = ["127.0.0.1:2024"]', "smtp_listen", "LMTP or SMTP", True),
        ('[lmtp]\nproxy_protocol = ["127.0.0.1:2024"]', "proxy_protocol", "networks of the balancers", True),
        ('[lmtp]\ntls_key = "/dev/null"', "tls_key", "without tls_cert", True),
        ('[lmtp]\nimplicit_tls = ["127.0.0.1:2024"]', "implicit_tls", "without tls_cert", True),
        ('[lmtp]\ntls_cert = "/nonexistent"', "tls_cert", "can not be read", True),
        ('[lmtp]\ntls_cert = "/dev/null"', "tls_cert", "no certificate with its key", True),
        ('[lmtp]\nbackend_tls_ca = "/dev/null"', "backend_tls_ca", 'backend_tls = "off"', True),
        ('[lmtp]\nbackend_tls = "may"\nbackend_tls_ca = "/dev/null"', "backend_tls_ca", "nothing is verified", False),
        ('[lmtp]\nbackend_tls = "verify"\nbackend_tls_ca = "/dev/null"', "backend_tls", "no certificates in PEM", True),
        ('[lmtp]\nbackend_tls = "verify"\nbackend_tls_key = "/dev/null"', "backend_tls_key", "without backend_t", True),
        ('[node]\nstate_dir = "/dev/null"', "state_dir", "expected a directory", True),
        ('[node]\nuser = "no-such-user"', "user", "there is no user", True),
        ('[node]\nreader_group = "no-such-group"', "reader_group", "there is no group", True),
        (f'[node]\nrun_dir = "/{"x" * 110}"', "run_dir", "107 bytes", True),
        ("[ldap]", "", "LDAP is not available", True),
        ('[mupdate]\nmode = "unified"', "mode", "no server stands in", False),
        ('[mupdate]\nmode = "replicated"\ntakeover = "allow"', "takeover", "no effect", False),
        (
            '[mupdate]\nmode = "unified"\n[backends.a]\nhost = "h"\n[backends.b]\nhost = "h"',
            "host",
            "the host of several servers",
            True,
        ),
        ('[node]\nfollow = "10.0.0.1:3905"', "follow_password_file", "the password of murder", True),
        ('[node]\nfollow = "10.0.0.1:3905"', "follow_tls_ca", "beyond loopback", True),
        ('[node]\nfollow = "unix:/run/x"', "follow", "expected host:port", True),
        ('[node]\nfollow = "127.0.0.1:3905"', "follow", "where this node listens itself", True),
        ('[node]\nfollow_tls_ca = "/ca.pem"', "follow_tls_ca", "no effect without follow", False),
        ('[users]\nsource = "static"', "source", "not available in this version", True),
        ('[discover]\nadmin = "cyrus"', "admin", "not available in this version", False),
        ('[lookup]\nsocketmap = ["unix:/x"]', "socketmap", "not available in this version", False),
        ('[sieve]\nlisten = ["127.0.0.1:2000"]', "listen", "not available in this version", False),
        ("[log]\nfolders = true", "folders", "not available in this version", False),
        ("[backends.be1]\nweight = 2", "weight", "not available in this version", False),
        ('[lmtp]\nbackend_user = "lmtp"', "backend_password_file", "expected a file", True),
        ('[lmtp]\nbackend_password_file = "/nonexistent"', "backend_password_file", "can not be read", True),
        ('[lmtp]\npwcheck = "file"', "password_file", "expected a file", True),
        ('[lmtp]\npwcheck = "file"\npassword_file = "/nonexistent"', "password_file", "can not be read", True),
        ('[lmtp]\npwcheck = "sasldb"\nsasldb_path = "/nonexistent"', "sasldb_path", "can not be read", True),
        ('[lmtp]\npwcheck = "file"\nrealm = "x"', "realm", 'no effect with pwcheck = "file"', False),
        ('[lmtp]\nauth_users = ["mx"]', "auth_users", 'no effect with pwcheck = "off"', False),
        ('[lmtp]\nlisten = ["0.0.0.0:24"]\npwcheck = "sasldb"', "listen", "set tls_cert and pwcheck", True),
        ('[backends.be1]\nhost = "a b"', "host", "expected a host name", True),
    ],
)
def test_findings(text: str, key: str, words: str, fatal: bool) -> None:
    found = findings(parse(text.encode(), "f.toml"))
    assert [(f.key, f.fatal) for f in found if words in f.message] == [(key, fatal)]


def test_trusted_networks_open_the_router() -> None:
    found = findings(parse(b'[lmtp]\nlisten = ["0.0.0.0:24"]\ntrusted = ["10.0.0.0/8"]', "f.toml"))
    assert found == []


def test_logins_under_tls_open_the_router(tmp_path: Path) -> None:
    made = Authority(tmp_path).issue("router", "/CN=router.example.org", "DNS:router.example.org")
    passwords = tmp_path / "passwords"
    passwords.write_text("mx:secret\n")
    passwords.chmod(0o600)
    text = (
        f'[lmtp]\nlisten = ["0.0.0.0:24"]\ntls_cert = "{made.cert}"\ntls_key = "{made.key}"\n'
        f'pwcheck = "file"\npassword_file = "{passwords}"\n'
    )
    config = parse(text.encode(), "f.toml")
    assert [finding for finding in findings(config, {"lmtp"}) if finding.fatal] == []
    settings = settings_of(config)
    assert settings.hears_strangers
    passwords.write_text("no colon\n")
    with pytest.raises(ConfigError, match="expected user:password"):
        settings_of(config)


def test_secrets_for_all_to_read_are_found(tmp_path: Path) -> None:
    secret = tmp_path / "passwords"
    secret.write_text("murder:x\n")
    config = parse(f'[mupdate]\npwcheck = "file"\npassword_file = "{secret}"\n'.encode(), "f.toml")
    secret.chmod(0o640)
    assert findings(config) == []
    secret.chmod(0o640 | stat.S_IROTH)
    assert [(f.key, f.fatal) for f in findings(config)] == [("password_file", False)]


def test_a_daemon_minds_only_its_own_sections() -> None:
    config = parse(b'[lmtp]\nlisten = ["0.0.0.0:24"]\n[discover]\nadmin = "cyrus"', "f.toml")
    assert require(config, "node") == [
        "f.toml: [discover] admin: not available in this version: backends are not asked"
    ]
    with pytest.raises(ConfigError, match=r"f\.toml: \[lmtp\] listen"):
        require(config, "lmtp-router")


def test_every_key_without_function_exists() -> None:
    for section, key in NOT_YET:
        assert key in SECTIONS[section].__struct_fields__


def test_the_documentation_is_current() -> None:
    written = (ROOT / "docs/configuration.md").read_text()
    assert written == document(), "run: python -m cyrusext.runtime.config_doc > docs/configuration.md"
    for section, kind in SECTIONS.items():
        for key in kind.__struct_fields__:
            assert f"| `{key}` |" in written, f"{section}.{key}"


def test_implicit_tls_is_for_addresses_that_are_listened_at() -> None:
    with pytest.raises(
        ConfigError, match=r"implicit_tls: expected addresses of listen or smtp_listen, got '127.0.0.1:1'"
    ):
        parse(b'[lmtp]\nimplicit_tls = ["127.0.0.1:1"]', "f.toml")
