"""The shape of the code: imports go downwards, pure modules do no I/O, files stay small.

The tables below are the rule itself; docs/architecture.md draws the same picture.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("cyrusext", "lmtp_router", "sieve")

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"cyrusext.cli", "cyrusext.__main__", "lmtp_router.cli", "lmtp_router.__main__"}),
    frozenset({"cyrusext.manage", "cyrusext.node"}),
    frozenset(
        {
            "cyrusext.doors",
            "cyrusext.mupdate.client",
            "cyrusext.mupdate.audience",
            "cyrusext.mupdate.guest",
            "cyrusext.mupdate.follower",
            "cyrusext.mupdate.followed",
            "cyrusext.mupdate.forwarding",
            "cyrusext.mupdate.leading",
            "cyrusext.mupdate.leftover",
            "cyrusext.mupdate.server",
            "cyrusext.mupdate.service",
            "cyrusext.mupdate.channel",
            "cyrusext.mupdate.reading",
            "cyrusext.mupdate._finds",
            "cyrusext.mupdate._sorted",
            "cyrusext.mupdate._walk",
            "cyrusext.mupdate.session",
            "cyrusext.mupdate.stream",
            "lmtp_router",
        }
    ),
    frozenset({"cyrusext.lookup", "cyrusext.replica"}),
    frozenset(
        {"cyrusext", "cyrusext.directory", "cyrusext.store", "cyrusext.index", "cyrusext.net", "cyrusext.runtime"}
    ),
    frozenset({"cyrusext.mupdate", "lmtp_router.protocol"}),
    frozenset({"cyrusext.wire"}),
    frozenset({"cyrusext.names", "cyrusext.backends"}),
    frozenset({"cyrusext.model", "cyrusext.errors"}),
)
"""Highest first.  A module belongs to the longest name here that it is or lies under; `cyrusext` is itself only."""

PURE = (
    "cyrusext.model",
    "cyrusext.errors",
    "cyrusext.names",
    "cyrusext.backends",
    "cyrusext.wire",
    "cyrusext.mupdate.types",
    "cyrusext.mupdate.codec",
    "cyrusext.mupdate.state",
    "cyrusext.mupdate.connection",
    "cyrusext.mupdate.following",
    "cyrusext.mupdate.healing",
    "cyrusext.directory.ballots",
    "cyrusext.directory.controls",
    "cyrusext.directory.modes",
    "cyrusext.directory.ownership",
    "cyrusext.directory.register",
    "cyrusext.directory.schema",
    "lmtp_router.protocol",
)
"""Bytes in, events out: no socket, no clock, no thread."""
FORBIDDEN_IN_PURE = frozenset(
    {"asyncio", "socket", "ssl", "threading", "time", "ldap", "uvloop", "select", "selectors"}
)

SIZES = {".py": (400, 600), ".pyx": (300, 400), ".c": (400, 600), ".h": (400, 600)}
"""Lines at which a file is warned about, and at which it fails."""

BANNED_IN_C = re.compile(
    r"\b(?:strcpy|strcat|sprintf|vsprintf|gets|alloca|printf|fprintf|perror|syslog|exit|_exit|abort|signal|sigaction"
    r"|pthread_create)\s*\("
)
"""The library is loaded into other people's daemons: it never logs, exits, takes signals or starts threads."""


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources() -> dict[str, Path]:
    """Every module of ours by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py*")):
            if path.suffix in (".py", ".pyx"):
                found[name_of(path)] = path
    return found


SOURCES = sources()


def absolute(module: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
    return ".".join(parts[: len(parts) - node.level + 1] + ([node.module] if node.module else []))


def imports_of_python(module: str, path: Path) -> Iterator[tuple[str, str]]:
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield absolute(module, path, node), alias.name


def imports_of_cython(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        if match := re.match(r"\s*from\s+([\w.]+)\s+c?import\s+(.+)", line):
            for name in match[2].strip("() ").split(","):
                yield match[1], name.split(" as ")[0].strip()
        elif match := re.match(r"\s*c?import\s+([\w.]+)", line):
            yield match[1], ""


def imports(module: str) -> set[str]:
    """What `module` imports; `from package import module` counts as that module."""
    path = SOURCES[module]
    pairs = imports_of_python(module, path) if path.suffix == ".py" else imports_of_cython(path)
    return {f"{base}.{name}" if f"{base}.{name}" in SOURCES else base for base, name in pairs}


def layer_of(module: str) -> int:
    best, rank = "", -1
    for index, layer in enumerate(LAYERS):
        for entry in layer:
            inside = module == entry or (entry != "cyrusext" and module.startswith(entry + "."))
            if inside and len(entry) > len(best):
                best, rank = entry, index
    return rank


def ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


def is_pure(module: str) -> bool:
    return any(module == entry or module.startswith(entry + ".") for entry in PURE)


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_every_module_has_a_layer(module: str) -> None:
    assert layer_of(module) >= 0, f"{module} is in no layer: add it to LAYERS and to docs/architecture.md"


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_go_downwards(module: str) -> None:
    up = [other for other in imports(module) if ours(other) and layer_of(other) < layer_of(module)]
    assert not up, f"{module} imports upwards: {', '.join(sorted(up))}"


@pytest.mark.parametrize("module", [name for name in sorted(SOURCES) if name.split(".")[0] == "cyrusext"])
def test_the_library_does_not_know_its_daemons(module: str) -> None:
    assert not [other for other in imports(module) if other.split(".")[0] in ("lmtp_router", "sieve")]


@pytest.mark.parametrize("module", [name for name in sorted(SOURCES) if is_pure(name)])
def test_pure_modules_do_no_io(module: str) -> None:
    found = imports(module)
    assert not {other.split(".")[0] for other in found} & FORBIDDEN_IN_PURE
    # A package's own __init__ may be empty or pure; what a pure module uses of ours is pure as well.
    impure = {other for other in found if ours(other) and not is_pure(other) and other not in ("cyrusext.mupdate",)}
    assert not impure, f"{module} is pure and imports {', '.join(sorted(impure))}"


def test_the_table_names_what_exists() -> None:
    """A pure module that was renamed must not slip out of the check."""
    for entry in PURE:
        path = ROOT / entry.replace(".", "/")
        assert entry in SOURCES or path.is_dir(), f"{entry} is in PURE and not in the tree"


def test_no_import_cycles() -> None:
    graph = {module: {other for other in imports(module) if other in SOURCES} - {module} for module in SOURCES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        if module in trail:
            pytest.fail("import cycle: " + " -> ".join((*trail[trail.index(module) :], module)))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_checks_can_fail() -> None:
    assert layer_of("cyrusext.unheard_of") == -1
    assert layer_of("cyrusext.mupdate.server") < layer_of("cyrusext.store") < layer_of("cyrusext.mupdate.codec")
    assert layer_of("lmtp_router.frontend") < layer_of("lmtp_router.protocol.codec")
    assert is_pure("cyrusext.wire.framer") and not is_pure("cyrusext.mupdate.server")


def written_files() -> list[Path]:
    found = []
    for top in (*PACKAGES, "csrc", "tests", "fuzz", "benchmarks", "packaging"):
        found += [path for path in (ROOT / top).rglob("*") if path.suffix in SIZES and path.is_file()]
    built = re.compile(r"/\* Generated by Cython|/\* Generated by cffi|Auto-generated by")
    return sorted(path for path in found if path.suffix != ".c" or not built.search(path.read_text()[:300]))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", written_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small(path: Path) -> None:
    warn, fail = SIZES[path.suffix]
    lines = len(path.read_text().splitlines())
    assert lines <= fail, f"{lines} lines, at most {fail} are allowed: split it"
    if lines > warn:
        warnings.warn(f"{path.relative_to(ROOT)} has {lines} lines, more than {warn}", stacklevel=1)


def without_comments(text: str) -> str:
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\])*"', " ", text, flags=re.DOTALL)


LIBRARY = [path for path in (ROOT / "csrc" / "libcyrusext").glob("*.[ch]") if path.name != "failpoint.c"]
"""Fail-points are in test builds only, and are there to end the process."""


@pytest.mark.parametrize("path", sorted(LIBRARY), ids=lambda path: path.name)
def test_the_c_library_is_a_quiet_guest(path: Path) -> None:
    found = BANNED_IN_C.findall(without_comments(path.read_text()))
    assert not found, f"{path.name} calls {', '.join(found)}"
