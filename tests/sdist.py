"""Prove the source distribution: it holds every file, builds on its own, and its wheel runs in a clean place.

    python tests/sdist.py [options for pytest]

Steps: build the sdist; compare it with what git tracks; unpack it elsewhere; build the extensions there and run the
unit tests of the unpacked tree; build a wheel, install it in an environment that does not see this checkout, and run
its commands.  Nothing is fetched: the clean environment borrows the third-party packages of .venv.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = frozenset({".gitignore"})
"""Tracked files that a source distribution has no use for."""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run `command` and return what it printed; a failure ends the job and shows it."""
    ran = subprocess.run(
        command, cwd=cwd, env=clean_environment() | environment, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        sys.exit(
            f"{' '.join(map(str, command))} ended with {ran.returncode}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"
        )
    return ran.stdout


def clean_environment() -> dict[str, str]:
    dropped = ("PYTHONPATH", "VIRTUAL_ENV")
    return {key: value for key, value in os.environ.items() if key not in dropped and not key.startswith("GIT_")}


def build_sdist(work: Path) -> Path:
    run(sys.executable, "setup.py", "-q", "egg_info", "--egg-base", work, "sdist", "--dist-dir", work, cwd=ROOT)
    (archive,) = work.glob("*.tar.gz")
    return archive


def missing_from(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    if not (ROOT / ".git").exists():
        return []
    tracked = run("git", "-c", "safe.directory=*", "ls-files", cwd=ROOT).split("\n")
    return sorted({name for name in tracked if name and (ROOT / name).exists()} - held - LEFT_OUT)


def unpack(archive: Path, work: Path) -> Path:
    (work / "tree").mkdir()
    run("tar", "-xzf", archive, "-C", work / "tree", cwd=work)
    (tree,) = (work / "tree").iterdir()
    return tree


def install_wheel(tree: Path, work: Path) -> Path:
    """Install the wheel of `tree` in a new environment and return that environment's directory of commands."""
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", work, tree, cwd=work)
    (wheel,) = work.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", work / "clean", cwd=work)
    clean = work / "clean" / "bin"
    run(
        *(sys.executable, "-m", "pip", "--python", clean / "python", "install", "-q", "--no-deps", "--no-index", wheel),
        cwd=work,
    )
    borrow_packages(work / "clean")
    return clean


def borrow_packages(environment: Path) -> None:
    """Let `environment` see the third-party packages of .venv, without the editable install of this checkout."""
    theirs = Path(sysconfig.get_path("purelib"))
    borrowed = environment / "borrowed"
    borrowed.mkdir()
    for item in theirs.iterdir():
        if "cyrusext" not in item.name and item.suffix != ".pth":
            (borrowed / item.name).symlink_to(item)
    (site,) = (environment / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(f"{borrowed}\n")


def prove_wheel(clean: Path, work: Path) -> None:
    where = run(clean / "python", "-c", "import cyrusext, lmtp_router; print(cyrusext.__file__)", cwd=work)
    if not where.startswith(str(work / "clean")):
        sys.exit(f"the wheel's environment imports cyrusext from {where}")
    configuration = work / "empty.toml"
    configuration.touch()
    run(clean / "cyrusext", "--help", cwd=work)
    run(clean / "lmtp-router", "--help", cwd=work)
    run(clean / "cyrusext", "config", "check", "-c", configuration, cwd=work)
    run(
        clean / "python",
        "-c",
        "import cyrusext.index._cyx, cyrusext.wire._framer, lmtp_router.protocol._scan, lmtp_router.protocol._stuff",
        cwd=work,
    )


def main(options: list[str]) -> int:
    work = Path(tempfile.mkdtemp(prefix="cyrusext-sdist-"))
    try:
        archive = build_sdist(work)
        if missing := missing_from(archive):
            sys.exit(f"not in the source distribution: {', '.join(missing)}")
        tree = unpack(archive, work)
        run(sys.executable, "setup.py", "-q", "build_ext", "--inplace", "-j", "2", cwd=tree)
        run("make", "-s", "-C", "csrc", f"OUT={tree}/build", "all", cwd=tree)
        prove_wheel(install_wheel(tree, work), work)
        command = [sys.executable, "-m", "pytest", "-q", "--job", "unit", "-p", "no:cacheprovider", *options]
        return subprocess.run(
            command, cwd=tree, env=clean_environment() | {"PYTHONPATH": str(tree)}, check=False
        ).returncode
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
