"""The hot table's keeper: builds it when the node starts, and the next one when this one has grown crowded.

Rule: the node serves without waiting for it; until it is there, or where it can not be built, readers ask the store.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

from cyrusext.errors import StoreError
from cyrusext.runtime import logging

log = logging.get()

LOOK_S = 0.5
"""How often it is asked whether a new table is wanted."""
AGAIN_S = 30.0
"""How long to wait after one that could not be built."""


class Store(Protocol):
    """What the keeper needs of the store."""

    @property
    def hot_wanted(self) -> bool: ...

    def build_hot(self) -> None: ...

    def cancel_hot(self) -> None: ...


class HotTable:
    """Keeps the hot table of `store`."""

    name = "hot"

    def __init__(self, store: Store) -> None:
        self._store = store
        self._task: asyncio.Task[None] | None = None
        self.built = 0
        """Tables built so far."""

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Give up what is being built, and wait until the store is no longer used."""
        if self._task is None:
            return
        self._store.cancel_hot()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            pause = LOOK_S
            if self._store.hot_wanted:
                begun = loop.time()
                error = await self._build()
                if error is None:
                    self.built += 1
                    log.info("hot.built", seconds=round(loop.time() - begun, 3))
                else:
                    log.warning("hot.not_built", error=error)
                    pause = AGAIN_S
            await asyncio.sleep(pause)

    async def _build(self) -> StoreError | None:
        """Build in a thread of its own; when cancelled, wait for its end all the same: it uses the store."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[StoreError | None] = loop.create_future()

        def work() -> None:
            outcome: StoreError | None = None
            try:
                self._store.build_hot()
            except StoreError as error:
                outcome = error
            loop.call_soon_threadsafe(ended.set_result, outcome)

        threading.Thread(target=work, name="hot", daemon=True).start()
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            await ended
            raise
