"""The files in packaging/ are right: our own programs read them, and what they name exists."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import click
import pytest

from cyrusext.cli import cli as cyrusext_command
from cyrusext.runtime import config
from cyrusext.runtime.config_check import findings
from lmtp_router.cli import cli as router_command

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
UNITS = sorted((PACKAGING / "systemd").glob("*.service"))
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
            command = command.commands[word]


def test_units_run_under_the_account_that_is_made() -> None:
    account = (PACKAGING / "systemd" / "sysusers.conf").read_text()
    for path in UNITS:
        user = re.search(r"^User=(\w+)$", path.read_text(), re.MULTILINE)
        assert user is not None and re.search(rf"^u {user[1]} ", account, re.MULTILINE)
