"""The documentation is true: links lead somewhere, named commands and targets exist, every page is listed."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from cyrusext.cli.commands import cli as cyrusext_command
from cyrusext.node.control import NodeControl
from lmtp_router.cli import cli as router_command
from lmtp_router.figures import Figures

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
COMMANDS: dict[str, object] = {"cyrusext": cyrusext_command, "lmtp-router": router_command}


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page, built from its headings as the usual viewers build them."""
    headings = re.findall(r"^#+\s+(.+)$", page.read_text(), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in anchors(there)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not broken_links(page)


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[one](#a-heading) [two](nowhere.md) [three](#nothing)\n")
    assert broken_links(page) == ["nowhere.md", "#nothing"]


def commands_in(text: str) -> list[list[str]]:
    """The words of each command of ours in code: those before the first option or argument in capitals."""
    code = re.findall(r"```(?:sh|console|text)?\n(.*?)```", text, flags=re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    found = []
    for line in "\n".join(code).splitlines():
        match = re.match(
            r"(?:[#$]\s+)?(?:sudo )?(?:\.venv/bin/)?(cyrusext|lmtp-router)((?: [a-z][a-z|-]*)*)(?: |$)", line
        )
        if match:
            found.append([match[1], *match[2].split()])
    return found


def is_known(words: list[str]) -> bool:
    command = COMMANDS[words[0]]
    for word in words[1:]:
        if not isinstance(command, click.Group):
            return True  # an argument
        inner = command.get_command(click.Context(command), word)
        if inner is None:
            return False
        command = inner
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_commands_exist(page: Path) -> None:
    unknown = [" ".join(words) for words in commands_in(page.read_text()) if not is_known(words)]
    assert not unknown


def test_an_unknown_command_is_seen() -> None:
    words = commands_in("`cyrusext no-such-thing` and\n```sh\n# cyrusext status\n```\n")
    assert sorted(words) == [["cyrusext", "no-such-thing"], ["cyrusext", "status"]]
    assert not is_known(["cyrusext", "no-such-thing"]) and is_known(["cyrusext", "status"])


def test_named_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        for named in re.findall(r"`(?:sudo )?make ([a-z]+)", page.read_text()):
            assert named in targets, f"{page.name} names make {named}"


def test_every_directory_is_explained() -> None:
    readme = (ROOT / "README.md").read_text()
    kept = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")}
    made = {"build", "dist"} | {name for name in kept if name.endswith(".egg-info") or name == "__pycache__"}
    missing = [name for name in sorted(kept - made) if f"`{name}/`" not in readme]
    assert not missing, f"README.md has no line on {', '.join(missing)}"


def test_every_decision_is_listed() -> None:
    decisions = ROOT / "docs" / "decisions"
    index = (decisions / "index.md").read_text()
    missing = [
        page.name for page in decisions.glob("*.md") if page.name != "index.md" and f"({page.name})" not in index
    ]
    assert not missing


def test_the_metrics_page_names_what_there_is_and_nothing_else() -> None:
    page = (ROOT / "docs" / "operations" / "metrics.md").read_text()
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bcyrusext_\w+", page)}
    assert named == set(NodeControl.METRICS) | set(Figures.METRICS)
    shown: dict[str, object] = {}
    for row in re.findall(r"^\| (`cyrusext_[^|]*)\| ([^|]*) \|", page, flags=re.MULTILINE):
        names, labels = (re.findall(r"`(\w+)`", cell) for cell in row)
        labels = [label for label in labels if label not in ("server", "le")]
        if labels:
            shown |= dict.fromkeys(names, labels[0] if len(labels) == 1 else tuple(labels))
    assert shown == {**NodeControl.LABELS, **Figures.LABELS}
