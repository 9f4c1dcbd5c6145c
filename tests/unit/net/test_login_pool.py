"""The login threads: bounded by address, fair between addresses, nobody waits for ever."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cyrusext.net.login_pool import LoginPool
from cyrusext.net.sasl import LoginRefused, LoginUnavailable


def test_one_address_may_have_so_much_waiting_and_others_are_served() -> None:
    gate = threading.Event()

    async def crowd() -> None:
        pool = LoginPool(threads=1, queued=2)
        waiting = [asyncio.ensure_future(pool.run(gate.wait, "a")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(LoginUnavailable, match="too many"):
            await pool.run(gate.wait, "a")
        other = asyncio.ensure_future(pool.run(lambda: 7, "b"))
        await asyncio.sleep(0)
        gate.set()
        assert await asyncio.gather(*waiting, other) == [True, True, 7]
        assert await pool.run(lambda: 8, "a") == 8
        pool.close()

    asyncio.run(crowd())


def test_addresses_take_turns() -> None:
    gate = threading.Event()

    async def crowd() -> list[str]:
        pool, done = LoginPool(threads=1), []

        def step(name: str) -> None:
            gate.wait()
            done.append(name)

        names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        steps = [asyncio.ensure_future(pool.run(lambda name=name: step(name), name[0])) for name in names]  # type: ignore[misc]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*steps)
        pool.close()
        return done

    assert asyncio.run(crowd()) == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


def test_a_step_that_hangs_is_given_up_and_the_others_go_on() -> None:
    gate = threading.Event()

    async def hang() -> None:
        pool = LoginPool(threads=2, queued=2)
        with pytest.raises(LoginUnavailable, match="too long"):
            await pool.run(gate.wait, timeout_s=0.05)
        assert await pool.run(lambda: 7) == 7
        gate.set()
        pool.close()

    asyncio.run(hang())


def test_what_a_step_raises_is_raised() -> None:
    def refuse() -> None:
        raise LoginRefused("no")

    async def run() -> None:
        pool = LoginPool(threads=1)
        for _ in range(3):
            with pytest.raises(LoginRefused):
                await pool.run(refuse)
        pool.close()
        with pytest.raises(LoginUnavailable):
            await pool.run(refuse)

    asyncio.run(run())


def test_who_leaves_gives_his_place_back() -> None:
    gate = threading.Event()

    async def leave() -> None:
        pool = LoginPool(threads=1, queued=2)
        leaving = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(2)]
        await asyncio.sleep(0)
        for step in leaving:
            step.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        gate.set()
        while True:
            try:
                assert await pool.run(lambda: 7) == 7
                break
            except LoginUnavailable:
                await asyncio.sleep(0)
        pool.close()

    asyncio.run(asyncio.wait_for(leave(), 30))


def test_the_end_lets_the_waiting_go() -> None:
    gate = threading.Event()

    async def end() -> None:
        pool = LoginPool(threads=1)
        steps = [asyncio.ensure_future(pool.run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        pool.close()
        gate.set()
        first, *others = await asyncio.gather(*steps, return_exceptions=True)
        assert first is True
        assert all(isinstance(other, asyncio.CancelledError) for other in others)

    asyncio.run(end())
