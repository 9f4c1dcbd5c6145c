"""A Kerberos realm: MIT's KDC in a private root, with principals, their keytabs, and Cyrus' own client beside it.

Rule: nothing of it is looked for on this machine but the Kerberos library that libsasl2's plug-in needs: who takes part
is told by `environment` where configuration, keytab and plug-ins are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.harness.cyrus import MUPDATE_PORT
from tests.harness.roots import Root
from tests.harness.server import Server
from tests.harness.waiting import accepts

REALM = "LAB"
PORT = 88

KRB5_CONF = """
[libdefaults]
 default_realm = {realm}
 dns_lookup_kdc = false
 dns_canonicalize_hostname = false
 rdns = false
[realms]
 {realm} = {{
  kdc = {address}:{port}
 }}
[domain_realm]
 {host} = {realm}
"""
KDC_CONF = """
[kdcdefaults]
 kdc_listen = {address}:{port}
 kdc_tcp_listen = {address}:{port}
[realms]
 {realm} = {{
  database_name = {state}/principal
  key_stash_file = {state}/stash
 }}
"""


class Kdc(Server):
    """The key distribution centre of `REALM`, for one server `host` at `host_address`."""

    def __init__(self, address: str, state: Path, root: Root, *, host: str, host_address: str) -> None:
        super().__init__("kdc", address, state, root)
        self.host = host
        words = {"realm": REALM, "address": address, "port": PORT, "host": host, "state": state}
        (state / "krb5.conf").write_text(KRB5_CONF.format(**words))
        (state / "kdc.conf").write_text(KDC_CONF.format(**words))
        (state / "hosts").write_text(f"127.0.0.1 localhost\n{host_address} {host}\n")
        (state / "services").write_text(f"mupdate\t{MUPDATE_PORT}/tcp\n")
        self.sandbox.run(*self._own, "kdb5_util", "create", "-s", "-r", REALM, "-P", "master")

    @property
    def _own(self) -> list[str]:
        here = self.state
        files = {"KRB5_CONFIG": "krb5.conf", "KRB5_KDC_PROFILE": "kdc.conf", "KRB5CCNAME": "tickets"}
        return ["env", *(f"{name}={here}/{file}" for name, file in files.items())]

    def command(self) -> Sequence[str | Path]:
        return [*self._own, "krb5kdc", "-n"]

    def ready(self) -> bool:
        return accepts(self.address, PORT)

    def is_error(self, line: str) -> bool:
        return False

    def keytab(self, principal: str) -> Path:
        """Make `principal` and return the file with its keys."""
        path = self.state / f"{principal.replace('/', '-')}.keytab"
        for words in (["addprinc", "-randkey", principal], ["ktadd", "-k", str(path), principal]):
            self.sandbox.run(*self._own, "kadmin.local", "-r", REALM, *words)
        return path

    def environment_of(self, keytab: Path) -> dict[str, str]:
        """What a server of this machine needs to take part: keys, realm, and libsasl2's plug-ins of the root."""
        assert self.sandbox.root is not None
        (plugins,) = self.sandbox.root.layer.glob("usr/lib/*/sasl2")
        files = {"KRB5_CONFIG": self.state / "krb5.conf", "KRB5_KTNAME": keytab, "SASL_PATH": plugins}
        return {name: str(file) for name, file in files.items()}

    def mupdatetest(self, principal: str, keytab: Path) -> str:
        """Have Cyrus' own client log in at the host as `principal`; returns what it printed."""
        self.sandbox.run(*self._own, "kinit", "-k", "-t", keytab, principal)
        words = ["-v", "-m", "GSSAPI", "-u", principal, "-a", principal, self.host]
        return self.sandbox.run(*self._own, "/usr/lib/cyrus/bin/mupdatetest", *words, check=False)
