"""What is shipped: one version, entry points that import, no trace of the machine it was written on."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

KNOWN_HOSTS = re.compile(
    r"(?:[\w-]+\.)*(?:example(?:\.\w+)?|test|invalid|localhost|lab)|127\.[\d.]+|\[::1\]|10\.[\d.]+|\{.*|\$.*|%.*"
    r"|www\.rfc-editor\.org|keepachangelog\.com|semver\.org|www\.w3\.org"
)
"""Hosts that a file may name in a URL: examples, this machine, and standards."""
TRACES = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)/|\.\./shared\b")
BINARY = frozenset({".png", ".gz", ".bin"})


def tracked() -> list[Path]:
    """The files of the project: what git tracks, or in an unpacked source distribution everything."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        names = [name for name in listed.split("\0") if name]
    else:
        names = (ROOT / "cyrusext.egg-info" / "SOURCES.txt").read_text().splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file() and Path(name).suffix not in BINARY]


TRACKED = tracked()


def test_there_are_files_to_check() -> None:
    assert len(TRACKED) > 40


def test_version_is_written_once() -> None:
    version = PROJECT["project"]["version"]
    assert metadata.version("cyrusext") == version
    assignment = re.compile(r"^\s*__version__\s*=\s*[\"']", re.MULTILINE)
    again = [path for path in TRACKED if path.suffix in (".py", ".pyx") and assignment.search(path.read_text())]
    assert not again


@pytest.mark.parametrize("script", sorted(PROJECT["project"]["scripts"]))
def test_entry_points_import(script: str) -> None:
    module, _, function = PROJECT["project"]["scripts"][script].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("script", sorted(PROJECT["project"]["scripts"]))
def test_commands_tell_how_they_are_used(script: str) -> None:
    command = Path(sys.executable).with_name(script)
    told = subprocess.run([command, "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stderr
    assert "Usage:" in told.stdout


def traces_in(text: str) -> list[str]:
    in_shell = re.compile(r'\$\{?\w+\}?"?(?=/)')
    found = TRACES.findall(in_shell.sub("variable", text))
    for host in re.findall(r"\bhttps?://([^/\s\"'`<>)\]:]+|\[[^]]+\])", text):
        if not KNOWN_HOSTS.fullmatch(host):
            found.append(host)
    return found


@pytest.mark.parametrize("path", TRACKED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_trace_of_a_machine(path: Path) -> None:
    if path == Path(__file__).resolve():
        return  # holds the patterns themselves
    assert not traces_in(path.read_text(errors="replace"))


def test_traces_are_found() -> None:
    assert traces_in("cd /root/" + "x") and traces_in("get http" + "://mirror.somewhere.net/debian")
    assert not traces_in("see http" + "://www.example.org/ and /usr/share/root/")


def test_every_c_source_is_built() -> None:
    """setup.py lists the library's sources by name; one that it forgets shows as a missing symbol much later."""
    listed = re.findall(r'"(csrc/libcyrusext/\w+\.c)"', (ROOT / "setup.py").read_text())
    there = [str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / "libcyrusext").glob("*.c")]
    assert sorted(listed) == sorted(there)


def test_every_cython_module_is_built() -> None:
    listed = re.findall(r'"([\w/]+\.pyx)"', (ROOT / "setup.py").read_text())
    there = [str(path.relative_to(ROOT)) for top in ("cyrusext", "lmtp_router") for path in (ROOT / top).rglob("*.pyx")]
    assert sorted(listed) == sorted(there)


def test_requirements_are_pinned() -> None:
    """Every requirement of pyproject.toml has the version that was tested in packaging/constraints.txt."""
    listed = subprocess.run(
        [sys.executable, ROOT / "packaging" / "requirements.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    pins = (ROOT / "packaging" / "constraints.txt").read_text().lower().replace("_", "-")
    for requirement in listed:
        name = re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-")
        assert re.search(rf"^{re.escape(name)}==", pins, re.MULTILINE), f"{name} has no pin"


def setup_py(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the build command of setup.py far enough to look for headers; nothing is compiled when one is missing."""
    return subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_missing_headers_are_named(tmp_path: Path) -> None:
    """On a machine without the development files the build stops with one sentence, not with compiler errors."""
    (tmp_path / "lmdb.h").write_text("#error not here\n")
    told = setup_py(tmp_path, CPPFLAGS=f"-I{tmp_path}")
    assert told.returncode != 0
    assert "missing: <lmdb.h> and liblmdb, for the store (Debian: liblmdb-dev)" in told.stderr
    assert "libsasl2-dev" not in told.stderr
    assert "Traceback" not in told.stderr


def test_missing_compiler_is_named(tmp_path: Path) -> None:
    told = setup_py(tmp_path, PATH=str(tmp_path), CC="")
    assert told.returncode != 0
    assert "no C compiler found (Debian: gcc)" in told.stderr


def test_build_tools_names_what_is_missing(tmp_path: Path) -> None:
    """Without root nothing is installed: one line names the packages."""
    tools = {
        "id": "echo 1000",
        "dpkg-query": 'case "$*" in *liblmdb-dev*|*" gcc") ;; *) echo "ii " ;; esac',
        "apt-get": "echo apt-get was called; exit 1",
    }
    for name, script in tools.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    told = subprocess.run(
        [ROOT / "packaging" / "build-tools", "build"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 1
    assert told.stderr == "missing Debian packages, please install: gcc liblmdb-dev\n"
    assert told.stdout == ""
