"""A real Postfix: takes mail by SMTP for the test domains and hands it to one LMTP server.

Traps: 127/8 is one interface, so the address stands in master.cf and not in `inet_interfaces`; ``start-fg`` leaves a
shell as our process, so ``postfix check`` runs once and then Postfix' master itself is the server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from tests.harness.cyrus import SERVICES
from tests.harness.roots import Root
from tests.harness.server import Server
from tests.harness.waiting import accepts, wait_until

MASTER = """\
{address}:25 inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
"""


class Postfix(Server):
    """One Postfix; `domains` are delivered to `transport` (``lmtp:inet:[address]:port``)."""

    FATAL: ClassVar[tuple[str, ...]] = (r"killed by signal (4|6|7|8|11)", r"bad command startup")
    NOISE: ClassVar[dict[str, str]] = {r"unable to look up .*: Name or service not known": "no name server here"}

    def __init__(
        self,
        address: str,
        state: Path,
        root: Root,
        *,
        transport: str,
        domains: Sequence[str] = ("example.org",),
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__("postfix", address, state, root)
        self.transport = transport
        self.domains = tuple(domains)
        self.extra = tuple(extra)

    def configure(self) -> None:
        config = self.state / "conf"
        for folder in ("conf", "queue", "data"):
            (self.state / folder).mkdir(exist_ok=True)
        (self.state / "hosts").write_text("127.0.0.1 localhost\n" + f"{self.address} mx.lab\n")
        (self.state / "services").write_text("".join(f"{name}\t{port}/tcp\n" for name, port in SERVICES.items()))
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": f"{self.state}/queue",
            "data_directory": f"{self.state}/data",
            "mail_owner": "postfix",
            "setgid_group": "postdrop",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "lmtp_bind_address": self.address,
            "myhostname": "mx.lab",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "virtual_mailbox_domains": " ".join(self.domains),
            "virtual_transport": self.transport,
            "lmtp_host_lookup": "native",
            "smtp_dns_support_level": "disabled",
            "notify_classes": "",
            "alias_maps": "",
            "alias_database": "",
            "lmtp_destination_recipient_limit": "50",
            "lmtp_connection_cache_on_demand": "no",
            "minimal_backoff_time": "1s",
            "maximal_backoff_time": "2s",
            "queue_run_delay": "1s",
        }
        for line in self.extra:
            key, _, value = line.partition("=")
            settings[key.strip()] = value.strip()
        text = [f"{key} = {value}" for key, value in settings.items()]
        (config / "main.cf").write_text("\n".join([*text, ""]))
        (config / "master.cf").write_text(MASTER.format(address=self.address))
        self.sandbox.run("sh", "-ec", f"chown postfix {self.state}/data; postfix -c {config} check")

    def command(self) -> Sequence[str | Path]:
        return ["/usr/lib/postfix/sbin/master", "-c", self.state / "conf", "-d"]

    def ready(self) -> bool:
        return accepts(self.address, 25)

    def is_error(self, line: str) -> bool:
        return re.search(r": (error|fatal|panic): ", line) is not None

    def queue(self) -> str:
        """What ``postqueue -p`` shows."""
        return self.sandbox.run("postqueue", "-c", f"{self.state}/conf", "-p")

    def flush(self) -> None:
        """Try everything that is deferred again, now."""
        self.sandbox.run("postqueue", "-c", f"{self.state}/conf", "-f")

    def wait_empty(self, timeout_s: float = 20.0) -> None:
        """Wait until everything is delivered, pressing for it: qmgr puts off for long what it found locked."""

        def empty() -> bool:
            if "Mail queue is empty" in self.queue():
                return True
            self.flush()
            return False

        wait_until(empty, "Postfix has delivered everything", timeout_s, 0.3)
