"""Wrong configurations: each fault is answered with file, key and what was expected, never with a traceback."""

from __future__ import annotations

import pytest

from cyrusext.errors import ConfigError
from cyrusext.runtime.config import parse

CASES: list[tuple[bytes, str]] = [
    (b"[mupdate]\nmax_connections = 'x'", "f.toml: [mupdate] max_connections: expected int, got str"),
    (b"[mupdate]\nmax_connections = 1.5", "f.toml: [mupdate] max_connections: expected int, got float"),
    (b"[mupdate]\nmax_connections = true", "f.toml: [mupdate] max_connections: expected int, got bool"),
    (b"[mupdate]\nmax_connections = 0", "f.toml: [mupdate] max_connections: expected int >= 1, got 0"),
    (b"[mupdate]\nmax_connections = 99999999999999999999999", "f.toml: [mupdate] max_connections: expected int"),
    (b"[mupdate]\nlisten = '127.0.0.1:3905'", "f.toml: [mupdate] listen: expected list, got str"),
    (b"[mupdate]\nlisten = [3905]", "f.toml: [mupdate] listen: entry 0: expected str, got int"),
    (b"[mupdate]\nlisten = ['127.0.0.1']", "f.toml: [mupdate] listen: '127.0.0.1': no port; expected"),
    (b"[mupdate]\nlisten = ['127.0.0.1:70000']", "f.toml: [mupdate] listen: '127.0.0.1:70000': '70000' is no port"),
    (b"[mupdate]\nlisten = ['unix:mupdate']", "f.toml: [mupdate] listen: 'unix:mupdate': the path of a UNIX socket"),
    (b"[mupdate]\nmode = 'single'", 'f.toml: [mupdate] mode: expected one of "standard", "unified", "replicated"'),
    (b"[mupdate]\nwrite_wait_s = -1", "f.toml: [mupdate] write_wait_s: expected float >= 0.0, got -1"),
    (b"[mupdate]\nwrite_wait_s = inf", "f.toml: [mupdate] write_wait_s: expected float <= 86400.0, got inf"),
    (b"[mupdate]\nwrite_wait_s = nan", "f.toml: [mupdate] write_wait_s: expected"),
    (b"[mupdate]\ntakover = 'deny'", "f.toml: [mupdate] takover: unknown key, did you mean takeover?"),
    (b"[mupdate]\norder = [{ net = '10.0.0.0/8', order = 'sorted' }]", 'expected one of "cyrus", "strcmp"'),
    (b"[mupdate]\norder = [{ order = 'cyrus' }]", "f.toml: [mupdate] order: entry 0"),
    (b"[mupdate]\norder = [{ net = 'home' }]", "f.toml: [mupdate] order net: expected a network"),
    (b"[mupdat]", "f.toml: [mupdat]: unknown section, did you mean mupdate?"),
    (b"name = 'x'", "f.toml: name: unknown key outside any section"),
    (b"node = 'x'", "f.toml: [node]: expected a section, got str"),
    (b"[[node]]", "f.toml: [node]: expected a section, got list"),
    (b"[node]\nstate_dir = 'var'", "f.toml: [node] state_dir: expected an absolute path, got 'var'"),
    (b"[node]\nstate_dir = 3", "f.toml: [node] state_dir: expected a path, got int"),
    (b"[node]\nname = ''", "f.toml: [node] name: expected str of length >= 1, got ''"),
    (b"[node]\nuser = 1979-05-27", "f.toml: [node] user: expected str"),
    (b"[node]\nfollow = 'other'", "f.toml: [node] follow: 'other': no port"),
    (b"[names]\nvirtdomains = 'yes'", "f.toml: [names] virtdomains: expected bool, got str"),
    (b"[names]\nvirtdomains = 1", "f.toml: [names] virtdomains: expected bool, got int"),
    (b"[backends]\nbe1 = '10.0.0.11'", "f.toml: [backends] be1: expected a section [backends.NAME], got str"),
    (b"[backends.be1]\nlmtp = '24'", "f.toml: [backends.be1] lmtp: expected int, got str"),
    (b"[backends.be1]\nlmtp = 70000", "f.toml: [backends.be1] lmtp: expected int <= 65535, got 70000"),
    (b"[backends.be1]\nport = 24", "f.toml: [backends.be1] port: unknown key"),
    (b"[backends.'be 1']", "f.toml: [backends.be 1]: expected a name of printable ASCII"),
    (b"[backends.'be1!x']", "f.toml: [backends.be1!x]: expected a name of printable ASCII"),
    (b"[lmtp]\nbody_buffer = '1MB'", "f.toml: [lmtp] body_buffer: expected a size such as"),
    (b"[lmtp]\nbody_buffer = '1'", "f.toml: [lmtp] body_buffer: expected at least 64KiB, got '1'"),
    (b"[lmtp]\nmax_size = 50", "f.toml: [lmtp] max_size: expected str, got int"),
    (b"[lmtp]\ntimeouts = 30", "f.toml: [lmtp] timeouts: expected table, got int"),
    (b"[lmtp]\ntimeouts = { connect = 'x' }", "f.toml: [lmtp] timeouts: connect: expected float, got str"),
    (b"[lmtp]\ntimeouts = { conect = 1 }", "f.toml: [lmtp] timeouts: unknown key conect"),
    (b"[lmtp]\ntimeouts = { final = 0 }", "f.toml: [lmtp] timeouts: final: expected float > 0.0"),
    (b"[lmtp]\ntrusted = ['lan']", "f.toml: [lmtp] trusted: expected a network such as 10.1.0.0/16, got 'lan'"),
    (b"[metrics]\nlisten = '9000'", "f.toml: [metrics] listen: '9000': no port"),
    (b"[log]\nlevel = 'loud'", "f.toml: [log] level: expected one of"),
    (b"[names]\nx", "f.toml:2: Expected '='"),
    (b"[names]\n\nx y = 1\n", "f.toml:3:3: Expected '='"),
    (b"[names]\nvirtdomains = true\nvirtdomains = true", "f.toml:3"),
    (b"[names]\n[names]", "f.toml:2"),
    (b"[node]\nname = 'caf\xe9'", "f.toml:2: not UTF-8"),
    (b"\xff\xfe", "f.toml:1: not UTF-8"),
    (b"\0", "f.toml:1"),
]


@pytest.mark.parametrize(("text", "message"), CASES, ids=[str(number) for number in range(len(CASES))])
def test_one_fault(text: bytes, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.toml")
    lines = str(caught.value).splitlines()
    assert [line for line in lines if message in line], lines
    assert all(line.startswith("f.toml") for line in lines)
    assert caught.value.exit_code == 78


def test_all_faults_are_told_at_once() -> None:
    text = b"[mupdate]\nmode = 3\nlisten = 4\n[node]\nnam = 'x'\n[backends.be1]\nimap = 'x'\n[lmtp]\nmax_size = '1MB'"
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.toml")
    assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()] == [
        "[mupdate] mode",
        "[mupdate] listen",
        "[node] nam",
        "[backends.be1] imap",
        "[lmtp] max_size",
    ]
