"""Our own daemons, as an operator runs them: the node and the router, each with a generated configuration file.

Rule: they run from the checkout in this machine's own root (they are what is under test, the roots are only for the
others), in a mount namespace of their own, so that "kill" and "hang" mean every process of them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from tests.harness.cyrus import LMTP_OPEN_PORT, MUPDATE_PORT, PASSWORDS, PEER
from tests.harness.sandbox import CHECKOUT
from tests.harness.server import Server
from tests.harness.waiting import accepts

Config = dict[str, dict[str, Any]]

ROUTER_SMTP_PORT = 2025
ROUTER_PORT = 24
"""LMTP's own; on the default, 2024, a program of this machine may listen at every address."""


def to_toml(config: Mapping[str, Mapping[str, Any]]) -> str:
    """Write sections of plain values; a nested mapping is a section below (``backends``) or an inline table."""
    lines: list[str] = []
    for section, values in config.items():
        plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
        if plain or not values:
            lines.append(f"[{section}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
        for key, value in values.items():
            if isinstance(value, Mapping):
                lines.append(f"[{section}.{json.dumps(key)}]")
                lines += [f"{name} = {json.dumps(item)}" for name, item in value.items()]
    return "\n".join([*lines, ""])


class OurServer(Server):
    """A daemon of this checkout.  Its log is its standard error."""

    PROGRAM: ClassVar[str] = "cyrusext"
    FATAL: ClassVar[tuple[str, ...]] = (r"Traceback \(most recent call last\)", r"AddressSanitizer", r"runtime error:")

    def __init__(self, name: str, address: str, state: Path, config: Config) -> None:
        super().__init__(name, address, state, None)
        self.output = self.log
        self.config = config
        self.config_file = state / "cyrusext.toml"
        self.extra_environment: dict[str, str] = {}

    def configure(self) -> None:
        self.config_file.write_text(to_toml(self.config))

    def environment(self) -> dict[str, str]:
        ours = {"PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", "PYTHONDEVMODE": ""}
        return {**ours, **self.extra_environment}

    def program(self) -> list[str | Path]:
        """The command as it was installed, or the module where it was not."""
        installed = Path(sys.executable).with_name(self.PROGRAM)
        module = {"cyrusext": "cyrusext", "lmtp-router": "lmtp_router"}[self.PROGRAM]
        return [installed] if installed.exists() else [sys.executable, "-m", module]

    def is_error(self, line: str) -> bool:
        return re.search(r"\blevel=(error|critical|exception)\b", line) is not None

    def _catch(self) -> None:
        """Guard it like the others; there is no syslog to catch."""
        super()._catch()

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of this program against it; the verb comes first, ``-c FILE`` is added at the end."""
        command = [*self.program(), *arguments, "-c", self.config_file]
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{self.PROGRAM} {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done


class Node(OurServer):
    """`cyrusext node` with the embedded store, on the address and port where Cyrus looks for its mupdate master."""

    def __init__(
        self, address: str, state: Path, backends: Mapping[str, str], config: Config | None = None, name: str = "node1"
    ) -> None:
        config = config or {}
        (state / "lib").mkdir(parents=True, exist_ok=True)
        (state / "run").mkdir(exist_ok=True)
        passwords = state / "passwords"
        passwords.write_text(f"{PEER}:{PASSWORDS[PEER]}\n")
        passwords.chmod(0o600)
        settings: Config = {
            "node": {"name": name, "state_dir": str(state / "lib"), "run_dir": str(state / "run")},
            "mupdate": {
                "listen": [f"{address}:{MUPDATE_PORT}"],
                "admins": [PEER],
                "pwcheck": "file",
                "password_file": str(passwords),
            },
            "backends": {server: {"host": host, "lmtp": LMTP_OPEN_PORT} for server, host in backends.items()},
            "log": {"level": "debug"},
        }
        for section, values in config.items():
            settings.setdefault(section, {}).update(values)
        super().__init__(name, address, state, settings)

    def command(self) -> list[str | Path]:
        return [*self.program(), "node", "-c", self.config_file]

    def ready(self) -> bool:
        return accepts(self.address, MUPDATE_PORT)


class Router(OurServer):
    """`lmtp-router`, reading the index of `node`."""

    PROGRAM: ClassVar[str] = "lmtp-router"

    def __init__(self, address: str, state: Path, node: Node, config: Config | None = None) -> None:
        settings = {section: dict(values) for section, values in node.config.items()}
        settings["lmtp"] = {
            "listen": [f"{address}:{ROUTER_PORT}"],
            "smtp_listen": [f"{address}:{ROUTER_SMTP_PORT}"],
            "workers": 1,
        }
        for section, values in (config or {}).items():
            settings.setdefault(section, {}).update(values)
        super().__init__("router", address, state, settings)

    def command(self) -> list[str | Path]:
        return [*self.program(), "-c", self.config_file]

    def ready(self) -> bool:
        """The parent listens before its workers serve: only the greeting counts."""
        try:
            with socket.create_connection((self.address, ROUTER_PORT), timeout=0.5) as probe:
                return probe.recv(4) == b"220 "
        except OSError:
            return False
