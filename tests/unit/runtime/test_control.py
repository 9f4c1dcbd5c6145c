"""The control socket: frames, errors, and clients that send rubbish."""

from __future__ import annotations

import asyncio
import stat
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cyrusext.errors import StoreFull
from cyrusext.runtime.control import MAX_FRAME, ControlServer


async def handle(frame: bytes) -> object:
    request = msgspec.msgpack.decode(frame, type=dict[str, Any])
    if request.get("op") == "full":
        raise StoreFull("no space left on /var")
    if request.get("op") == "bug":
        raise KeyError("secret")
    if request.get("op") == "long":
        return {"ok": True, "data": bytes(MAX_FRAME)}
    return {"ok": True, "echo": request}


def frame(request: object) -> bytes:
    data = msgspec.msgpack.encode(request)
    return struct.pack(">I", len(data)) + data


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, raw: bytes) -> Any:
        self.writer.write(raw)
        return await self.reply()

    async def reply(self) -> Any:
        (length,) = struct.unpack(">I", await self.reader.readexactly(4))
        return msgspec.msgpack.decode(await self.reader.readexactly(length))


Connect = Callable[[], Coroutine[Any, Any, Client]]


def serve(tmp_path: Path, scenario: Callable[[Connect], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        path = tmp_path / "control"
        server = ControlServer(path, handle)
        await server.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        clients: list[Client] = []

        async def connect() -> Client:
            clients.append(Client(*await asyncio.open_unix_connection(str(path))))
            return clients[-1]

        try:
            await asyncio.wait_for(scenario(connect), 20)
        finally:
            for client in clients:
                client.writer.close()
            await server.stop()
        assert not path.exists()

    asyncio.run(main())


def test_one_reply_per_request_in_order(tmp_path: Path) -> None:
    async def scenario(connect: Connect) -> None:
        client = await connect()
        client.writer.write(b"".join(frame({"op": "x", "n": n}) for n in range(50)))
        assert [(await client.reply())["echo"]["n"] for _ in range(50)] == list(range(50))

    serve(tmp_path, scenario)


@pytest.mark.parametrize(
    ("request_", "code"), [({"op": "full"}, "store-full"), ({"op": "bug"}, "error"), ({"op": "long"}, "error")]
)
def test_an_error_is_a_reply_and_the_connection_goes_on(
    tmp_path: Path, request_: object, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scenario(connect: Connect) -> None:
        client = await connect()
        reply = await client.ask(frame(request_))
        assert (reply["ok"], reply["error"]["code"]) == (False, code)
        assert "secret" not in reply["error"]["message"]
        assert (await client.ask(frame({"op": "x"})))["ok"]

    serve(tmp_path, scenario)


@pytest.mark.parametrize("raw", [b"\0\0\0\x02\xc1\xc1", frame([1, 2]), b"\0\0\0\x01\x01"])
def test_what_is_no_request_is_told_so(tmp_path: Path, raw: bytes) -> None:
    async def scenario(connect: Connect) -> None:
        client = await connect()
        assert (await client.ask(raw))["error"]["code"] == "protocol-remote"
        assert (await client.ask(frame({"op": "x"})))["ok"]

    serve(tmp_path, scenario)


@pytest.mark.parametrize("raw", [b"\0\0\0\0", struct.pack(">I", MAX_FRAME + 1), b"GET / HTTP/1.1\r\n\r\n"])
def test_a_frame_of_impossible_length_ends_the_connection_with_the_reason(tmp_path: Path, raw: bytes) -> None:
    async def scenario(connect: Connect) -> None:
        client, other = await connect(), await connect()
        assert "frame of" in (await client.ask(raw))["error"]["message"]
        assert await client.reader.read() == b""
        assert (await other.ask(frame({"op": "x"})))["ok"]

    serve(tmp_path, scenario)


def test_a_client_that_leaves_in_mid_frame_disturbs_nobody(tmp_path: Path) -> None:
    async def scenario(connect: Connect) -> None:
        for raw in (b"", b"\0", b"\0\0\0\x10abc"):
            client = await connect()
            client.writer.write(raw)
            client.writer.close()
        assert (await (await connect()).ask(frame({"op": "x"})))["ok"]

    serve(tmp_path, scenario)
