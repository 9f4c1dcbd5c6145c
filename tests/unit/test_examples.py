"""The files in packaging/ are right: our own programs read them, and what they name exists."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from cyrusext.cli.commands import cli as cyrusext_command
from cyrusext.runtime import config
from cyrusext.runtime.config_check import findings
from lmtp_router.cli import cli as router_command

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
DROP_INS = sorted((PACKAGING / "systemd").glob("*.service.d/*.conf"))
PROGRAMS: dict[str, click.Command] = {"cyrusext": cyrusext_command, "lmtp-router": router_command}


@pytest.mark.parametrize("path", sorted((PACKAGING / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_configurations_are_valid(path: Path) -> None:
    assert [finding.text("") for finding in findings(config.load(path))] == []


def test_the_parts_meet() -> None:
    """Postfix hands over where the router listens, and Cyrus asks where the node does."""
    ours = config.load(PACKAGING / "examples" / "cyrusext.toml")
    postfix = (PACKAGING / "examples" / "main.cf").read_text()
    transport = re.search(r"^virtual_transport = lmtp:inet:(\S+)$", postfix, re.MULTILINE)
    assert transport is not None and transport[1] in ours.lmtp.listen
    cyrus = dict(re.findall(r"^(\w+): (.+)$", (PACKAGING / "examples" / "imapd.conf").read_text(), re.MULTILINE))
    assert cyrus["mupdate_server"].rpartition(":")[2] in {place.rpartition(":")[2] for place in ours.mupdate.listen}
    assert cyrus["mupdate_authname"] in ours.mupdate.admins
    assert ours.backends.endpoint(cyrus["servername"], "lmtp") == ("10.0.0.11", 2004)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_run_what_exists(path: Path) -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read_string(path.read_text())
    assert unit["Service"]["Type"] == "notify"
    started = [value for key, value in unit["Service"].items() if key.startswith("ExecStart")]
    assert started
    for line in started:
        program, *words = shlex.split(line)
        command: click.Command = PROGRAMS[Path(program).name]
        for word in words:
            if word.startswith("-"):
                options = {name for parameter in command.params for name in parameter.opts}
                assert word in options, f"{line}: {command.name} has no option {word}"
                break
            assert isinstance(command, click.Group), f"{line}: {command.name} has no verb {word}"
            inner = command.get_command(click.Context(command), word)
            assert inner is not None, f"{line}: {command.name} has no verb {word}"
            command = inner


def test_units_run_under_the_account_that_is_made() -> None:
    account = (PACKAGING / "systemd" / "sysusers.conf").read_text()
    for path in UNITS:
        user = re.search(r"^User=(\w+)$", path.read_text(), re.MULTILINE)
        assert user is not None and re.search(rf"^u {user[1]} ", account, re.MULTILINE)


def parsed(text: str) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[method-assign, assignment]
    unit.read_string(text)
    return unit


@pytest.mark.parametrize("path", [*UNITS, *DROP_INS], ids=lambda path: path.name)
def test_after_a_black_start_everything_is_tried_until_it_runs(path: Path) -> None:
    unit = parsed(path.read_text())
    assert unit["Unit"]["StartLimitIntervalSec"] == "0", "systemd gives up after five attempts"
    assert unit["Service"]["Restart"] in ("always", "on-failure")
    assert float(unit["Service"]["RestartSec"]) > 0


def test_the_node_is_there_before_those_who_ask_it() -> None:
    node = parsed((PACKAGING / "systemd" / "cyrusext-node.service").read_text())
    assert {"cyrus-imapd.service", "cyrusext-router.service"} <= set(node["Unit"]["Before"].split())
    for path in DROP_INS:
        assert path.parent.name == "cyrus-imapd.service.d"
        asks = parsed(path.read_text())["Unit"]
        assert "cyrusext-node.service" in asks["After"].split()
        assert "cyrusext-node.service" in asks["Wants"].split()


def test_a_hung_node_is_ended_in_the_time_that_is_promised() -> None:
    service = parsed((PACKAGING / "systemd" / "cyrusext-node.service").read_text())["Service"]
    assert service["Restart"] == "always"
    released_s = float(service["WatchdogSec"]) + float(service["TimeoutAbortSec"])
    page = " ".join((PACKAGING.parent / "docs" / "operations" / "systemd.md").read_text().split())
    assert f"released within {released_s:g} s" in page
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"


def test_systemd_itself_finds_no_fault(tmp_path: Path) -> None:
    """With the machine's own systemd-analyze; where there is none, the other tests have to do."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    for path in UNITS:
        text = re.sub(r"^(Exec\w+=)/usr/bin/\S+", r"\1/bin/true", path.read_text(), flags=re.MULTILINE)
        (tmp_path / path.name).write_text(re.sub(r"^(User|Group)=.*", "", text, flags=re.MULTILINE))
    cyrus = "[Unit]\nDescription=Cyrus\n[Service]\nExecStart=/bin/true\n"
    (tmp_path / "cyrus-imapd.service").write_text(cyrus)
    (tmp_path / "cyrus-imapd.service.d").mkdir()
    for path in DROP_INS:
        shutil.copy(path, tmp_path / "cyrus-imapd.service.d" / path.name)
    for name in [path.name for path in UNITS] + ["cyrus-imapd.service"]:
        told = subprocess.run(
            [analyze, "verify", "--man=no", "--recursive-errors=no", tmp_path / name],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        faults = [line for line in told.stderr.splitlines() if str(tmp_path) in line or name in line]
        assert not faults


def test_systemd_would_find_a_fault(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    bad = tmp_path / "bad.service"
    bad.write_text("[Service]\nExecStart=/bin/true\nWatchdogSecond=3\n")
    told = subprocess.run([analyze, "verify", "--man=no", bad], capture_output=True, text=True, timeout=60, check=False)
    assert "bad.service" in told.stderr
