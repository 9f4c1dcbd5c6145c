"""Do our node and the stock master answer alike, word for word, where no quirk is named?

The dialogue files of tests/dialogues, over TCP: against `cyrusext node`, and the same files against Cyrus' own master,
executed and not recorded.  A file that says that the stock master crashes is held to that too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cyrusext.directory.modes import Mode
from tests.dialogues.runner import Dialogue, Mismatch, dialogues, run_dialogue
from tests.harness.ours import Config
from tests.harness.roots import Root
from tests.harness.topology import Master, MasterKind
from tests.harness.waiting import NeverHappened

pytestmark = pytest.mark.integration

ALL = dialogues(Mode.STANDARD)
CRASHED = r"signaled to death by signal (6|11)|exited, status (70|75|76)"


@pytest.fixture(scope="module", params=["ours", "stock"])
def master(request: pytest.FixtureRequest, root: Root, new_state: Callable[[], Path]) -> Iterator[Master]:
    with Master(root, new_state(), request.param) as group:
        group.master.expect(r"badlogin: ", r"\[TOOBIG\] Literal size")  # the files try both
        yield group


@pytest.mark.parametrize("dialogue", ALL, ids=lambda dialogue: dialogue.path.stem)
def test_dialogue(master: Master, dialogue: Dialogue) -> None:
    if dialogue.needs_empty:
        master.master.stop()
        master.forget_everything()
        master.master.start()
    if master.kind == "stock" and dialogue.crashes_stock:
        check_that_it_crashes(master, dialogue)
        return
    run_dialogue(dialogue.path, master.hosts["mup.lab"], 3905, master.kind)


@pytest.mark.parametrize("kind", ["ours", "stock"])
@pytest.mark.parametrize("mode", [Mode.UNIFIED, Mode.REPLICATED], ids=lambda mode: mode.value)
def test_dialogues_of_other_modes(kind: MasterKind, mode: Mode, root: Root, new_state: Callable[[], Path]) -> None:
    """Cyrus' own master refuses to be unified itself: for unified servers it runs as ``standard``."""
    config: Config = {"mupdate": {"mode": mode.value}, "backends": {"me.lab": {"host": "127.0.0.1"}}}
    extra = {"mupdate_config": mode.value} if mode is Mode.REPLICATED else None
    with Master(root, new_state(), kind, extra=extra, config=config) as master:
        for dialogue in dialogues(mode):
            run_dialogue(dialogue.path, master.hosts["mup.lab"], 3905, kind)


def check_that_it_crashes(master: Master, dialogue: Dialogue) -> None:
    """Run what stands for the stock master, and see it die; then start it afresh, for the next file."""
    since = master.stock.mark()
    try:
        run_dialogue(dialogue.path, master.hosts["mup.lab"], 3905, "stock")
        master.stock.wait_log(CRASHED, since, 5)
    except (Mismatch, NeverHappened) as error:
        if not master.stock.log_contains(CRASHED, since):
            raise AssertionError(f"the stock master survives {dialogue.path.name}") from error
    finally:
        master.stock.kill()
        master.stock.forgive()
        master.forget_everything()
        master.stock.start()
