"""Print what .venv needs: the build, run-time, test and lint requirements of pyproject.toml, one a line.

Rule: pyproject.toml is the only list; nothing is named twice.
"""

from __future__ import annotations

import tomllib
from pathlib import Path


def main() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    lists = [project["build-system"]["requires"], project["project"]["dependencies"]]
    lists += project["project"]["optional-dependencies"].values()
    for requirement in sorted({item for each in lists for item in each}):
        print(requirement)


if __name__ == "__main__":
    main()
