"""Private Debian roots: where the test servers come from.

Rule: the machine is left as it was.  A root is files in a cache directory and nothing else; what is built is complete
or not there (a finished directory is renamed into place under a lock); every number of a user or group is fixed, so
that a state directory has one owner whichever release made it.

A root is a *base* (debootstrap, minbase) and a *layer* on it: the upper directory that one ``apt-get install`` left in
an overlay over the base.  Layers keep packages apart that exclude each other.  The mirror, its proxy and its
certificates are those of this machine's apt; they are used while building and are not kept.

    python3 tests/harness/roots.py build bookworm [trixie]
    python3 tests/harness/roots.py path bookworm
    python3 tests/harness/roots.py clean

Needs root, debootstrap, and only the standard library.  Environment: CYREXT_ROOTS (the cache), CYREXT_MIRROR and
CYREXT_SECURITY_MIRROR (when this machine's apt does not use a Debian mirror).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

SUITES = ("bookworm", "trixie")
VERSION = 1
"""Raise it to have every root built anew, for instance to take security updates."""

SCRIPT = Path(__file__).with_name("roots.sh")

LAYERS = {
    "main": (
        "cyrus-imapd",
        "cyrus-murder",
        "cyrus-pop3d",
        "cyrus-clients",
        "cyrus-admin",
        "libsasl2-modules",
        "sasl2-bin",
        "postfix",
    ),
    "kerberos": (
        "krb5-kdc",
        "krb5-admin-server",
        "krb5-user",
        "libsasl2-modules",
        "libsasl2-modules-gssapi-mit",
        "cyrus-murder",
    ),
    "dovecot": ("dovecot-core", "dovecot-lmtpd"),
    "openldap": ("slapd", "ldap-utils"),
}
"""Packages of each layer.  Cyrus, Dovecot and Perdition provide and conflict with ``imap-server``: a layer each."""

GROUPS = {"postfix": 881, "openldap": 882, "dovecot": 883, "dovenull": 884, "perdition": 885, "postdrop": 886}
USERS = {
    "cyrus": (880, 8),
    "postfix": (881, 881),
    "openldap": (882, 882),
    "dovecot": (883, 883),
    "dovenull": (884, 884),
    "perdition": (885, 885),
}
"""user -> (uid, gid); made in the base before any package could choose its own.  Group 8 is Debian's ``mail``."""


class RootsError(Exception):
    """A root can not be built or is not there; the text says what to do."""


class Root(NamedTuple):
    """One layer on one base.  The directories exist once `build` returned it."""

    suite: str
    base: Path
    layer: Path

    @property
    def ready(self) -> bool:
        return self.base.is_dir() and self.layer.is_dir()

    @property
    def lower(self) -> str:
        """What an overlay mount takes as ``lowerdir``."""
        return f"{self.layer}:{self.base}"


def cache_dir() -> Path:
    return Path(os.environ.get("CYREXT_ROOTS") or "/var/cache/cyrusext-roots")


def locate(suite: str, layer: str = "main", cache: Path | None = None) -> Root:
    """Say where a root is or would be.  The stamp in the names covers everything but the versions of packages."""
    if suite not in SUITES:
        raise RootsError(f"no root is known for {suite!r}, only for {', '.join(SUITES)}")
    home = (cache or cache_dir()) / suite
    base = _stamp(VERSION, suite, GROUPS, USERS, SCRIPT.read_text())
    return Root(suite, home / f"base-{base}", home / f"{layer}-{_stamp(base, LAYERS[layer])}")


def package_version(root: Root, package: str) -> str:
    """Return the version of a package in the layer of `root`, or "?"."""
    _, _, rest = (root.layer / "var/lib/dpkg/status").read_text().partition(f"\nPackage: {package}\n")
    found = next((line for line in rest.splitlines() if line.startswith("Version: ")), "Version: ?")
    return found.removeprefix("Version: ")


def build(
    suite: str, layer: str = "main", *, cache: Path | None = None, say: Callable[[str], None] | None = None
) -> Root:
    """Build what is missing of a root; at once when nothing is.  Raises RootsError."""
    root = locate(suite, layer, cache)
    if root.ready:
        return root
    if os.geteuid() != 0:
        raise RootsError(f"the private Debian root for {suite} is missing and only root can build it")
    if shutil.which("debootstrap") is None:
        raise RootsError("debootstrap is not installed (Debian: apt-get install debootstrap)")
    say = say or _say
    root.base.parent.mkdir(parents=True, exist_ok=True)
    with _lock(root.base.parent / ".lock"):
        for target, make in ((root.base, _make_base), (root.layer, _make_layer)):
            if target.is_dir():
                continue
            began = time.monotonic()
            say(f"roots: building {suite}/{target.name} (once; {_PURPOSE[make.__name__]})")
            make(root)
            say(f"roots: {suite}/{target.name} built in {time.monotonic() - began:.0f} s")
    return root


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


_PURPOSE = {"_make_base": "about 30 s and 90 MB", "_make_layer": "about 15 s and 180 MB"}


def _stamp(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` exclusively; another build of the same cache waits here and then finds the work done."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _make_base(root: Root) -> None:
    names = [f"{name}:{gid}" for name, gid in GROUPS.items()]
    users = [f"{name}:{uid}:{gid}" for name, (uid, gid) in USERS.items()]
    _script(root, root.base, "base", {"GROUPS_": " ".join(names), "USERS": " ".join(users)})


def _make_layer(root: Root) -> None:
    name = root.layer.name.rpartition("-")[0]
    _script(root, root.layer, "layer", {"BASE": str(root.base), "PACKAGES": " ".join(LAYERS[name])})


def _script(root: Root, target: Path, verb: str, settings: dict[str, str]) -> None:
    """Run one verb of roots.sh in a temporary directory and rename its result to `target`."""
    for old in target.parent.glob(".tmp-*"):  # left by a build that was killed; we hold the lock
        _remove(old)
    work = target.parent / f".tmp-{target.name}"
    work.mkdir()
    log = work / "log"
    env = {**os.environ, **_apt_environment(), **settings, "SUITE": root.suite, "WORK": str(work)}
    (work / "apt.conf").write_text(_apt_settings())
    with log.open("wb") as out:
        command = ["unshare", "--mount", "--propagation", "private", "sh", str(SCRIPT), verb]
        done = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
    if done.returncode:
        lines = log.read_text(errors="replace").splitlines()[-15:]
        raise RootsError(f"building {root.suite} failed ({verb}), see {log}:\n  " + "\n  ".join(lines))
    (work / "root").rename(target)
    _remove(work)


def _remove(path: Path) -> None:
    """Delete a directory of ours, but never through something that is still mounted in it."""
    mounts = Path("/proc/self/mounts").read_text()
    if any(line.split()[1].startswith(f"{path}/") for line in mounts.splitlines()):
        raise RootsError(f"something is mounted below {path}; unmount it first")
    shutil.rmtree(path)


def _apt_environment() -> dict[str, str]:
    """The mirrors this machine's apt uses, and its proxy in the form that debootstrap's downloader knows."""
    mirror = os.environ.get("CYREXT_MIRROR") or _mirror(r"/debian/?$")
    if not mirror:
        raise RootsError("this machine's apt uses no Debian mirror; set CYREXT_MIRROR to the address of one")
    env = {"MIRROR": mirror, "SECURITY": os.environ.get("CYREXT_SECURITY_MIRROR") or _mirror(r"/debian-security/?$")}
    for scheme in ("http", "https"):
        match = re.search(rf'^Acquire::{scheme}::Proxy "([^"]+)";$', _apt_dump(), re.MULTILINE | re.IGNORECASE)
        if match and f"{scheme}_proxy" not in os.environ:
            env[f"{scheme}_proxy"] = match[1]
    return env


def _mirror(pattern: str) -> str:
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return next((uri for uri in found if re.search(pattern, uri)), "")


def _apt_dump() -> str:
    return subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout


def _apt_settings() -> str:
    """How this machine's apt downloads: proxy, certificates, checks of dates; nothing else of its configuration."""
    wanted = re.compile(r"^Acquire::(https?|Check-|Retries|ForceIPv)", re.IGNORECASE)
    kept = [line for line in _apt_dump().splitlines() if wanted.match(line) and "CAInfo" not in line]
    return "\n".join([*kept, 'Acquire::https::CAInfo "/run/host-certificates.crt";', ""])


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["build", *suites] if suites:
                for suite in suites:
                    print(build(suite).layer)
            case ["path", suite]:
                root = locate(suite)
                print(root.layer)
                return 0 if root.ready else 1
            case ["clean"]:
                for suite in SUITES:
                    if (cache_dir() / suite).is_dir():
                        _remove(cache_dir() / suite)
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except RootsError as error:
        print(f"roots: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
