"""The kick socket: every kick is answered, nobody's socket is taken."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from cyrusext.doors.kick import HELD_BY_OTHER, KickDoor


def run(scenario: Callable[[KickDoor], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        door = KickDoor()
        await door.start()
        try:
            await asyncio.wait_for(scenario(door), 20)
        finally:
            await door.stop()

    asyncio.run(main())


async def kick(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    heard = await reader.read()
    writer.close()
    return heard


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a test waits for a state of what it tests
            await asyncio.sleep(0.005)


def test_a_kick_is_answered_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "mupdate.target"

    async def scenario(door: KickDoor) -> None:
        door.set_paths([str(path)])
        assert stat.S_IMODE(path.stat().st_mode) == 0o777
        assert await asyncio.gather(*(kick(path) for _ in range(50))) == [b"ok"] * 50
        assert door.kicks == 50
        door.set_paths([])
        assert not path.exists()

    run(scenario)


def test_it_catches_up_first_and_answers_whether_it_can_or_not(tmp_path: Path) -> None:
    path = tmp_path / "mupdate.target"

    async def scenario(door: KickDoor) -> None:
        asked: list[bool] = []

        def caught_up() -> bool:
            asked.append(True)
            return len(asked) > 3

        door.is_caught_up = caught_up
        door.set_paths([str(path)])
        assert await kick(path) == b"ok"
        assert len(asked) == 4
        door.is_caught_up = lambda: False
        assert await kick(path) == b"ok"

    run(scenario)


def test_the_socket_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "mupdate.target"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()

    async def scenario(door: KickDoor) -> None:
        door.set_paths([str(path)])
        assert await kick(path) == b"ok"

    run(scenario)


def test_the_socket_of_a_living_slave_is_left_alone_and_had_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mupdate.target"
    monkeypatch.setattr("cyrusext.doors.kick.RETRY_S", 0.02)

    async def scenario(door: KickDoor) -> None:
        with socket.socket(socket.AF_UNIX) as slave:
            slave.bind(str(path))
            slave.listen()
            inode = path.stat().st_ino
            door.set_paths([str(path)])
            assert door.failures == {str(path): HELD_BY_OTHER}
            await asyncio.sleep(0)
            assert path.stat().st_ino == inode
        await until(lambda: not door.failures)
        assert await kick(path) == b"ok"

    run(scenario)
    assert "event=kick.not_served" in capfd.readouterr().err


def test_a_slave_that_takes_the_path_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It unlinks what is there and binds; its socket must not be removed when we end."""
    path = tmp_path / "mupdate.target"
    monkeypatch.setattr("cyrusext.doors.kick.RETRY_S", 0.02)

    async def scenario(door: KickDoor) -> None:
        door.set_paths([str(path)])
        with socket.socket(socket.AF_UNIX) as slave:
            slave.bind(str(tmp_path / "new"))
            slave.listen()
            (tmp_path / "new").rename(path)
            await until(lambda: door.failures)
            door.set_paths([])
            assert path.exists()

    run(scenario)


def test_a_directory_that_is_not_there_is_a_failure_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "socket" / "mupdate.target"

    async def scenario(door: KickDoor) -> None:
        door.set_paths([str(path)])
        assert "No such file or directory" in door.failures[str(path)]
        path.parent.mkdir()
        door.set_paths([str(path)])
        assert await kick(path) == b"ok"

    run(scenario)
