"""The event loop behind a TcpProxy, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextvars
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Protocol

_HOST = "127.0.0.1"
_PIECE = 16_384  # bytes read at once
_WAITING = 64  # pieces under way in one direction, so that a black hole holds 1 MB and then lets the sender wait
_LOOK = 0.002  # seconds between looks at a switch
_STEPS = 50  # per second, into which a limited bandwidth is divided
_WAIT = 10.0  # seconds for the loop to do what it is told
_ABORT = struct.pack("ii", 1, 0)  # linger for 0 seconds: closing sends RST

_Piece = tuple[float, bytes]


class Way(Protocol):
    """One direction's settings, read for every piece."""

    @property
    def black_hole(self) -> bool:
        """Nothing arrives."""
        ...

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second."""
        ...

    @property
    def reset_after(self) -> int | None:
        """Bytes."""
        ...

    def delay(self) -> float:
        """Seconds under way."""
        ...


class Engine:
    """Listens, and carries bytes to and fro."""

    def __init__(self, target: tuple[str, int], to_server: Way, to_client: Way) -> None:
        self._target = target
        self._ways = to_server, to_client
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(
            target=contextvars.Context().run, args=(self._run,), name="resilient-proxy", daemon=True
        )
        self._kept = _socket(0)  # bound for as long as this lives: while it refuses, nobody else gets the port
        self.port: int = self._kept.getsockname()[1]
        self.links: set[asyncio.Task[None]] = set()
        self.accepted = 0

    def start(self, *, refuse: bool) -> None:
        """Start the thread, and listen."""
        try:
            self._thread.start()
        except RuntimeError:  # no thread to be had
            self._loop.close()
            self._kept.close()
            raise
        if not refuse:
            self.do(self.listen)

    def stop(self) -> None:
        """Reset every connection, close everything, end the thread."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_WAIT)
        self._kept.close()

    def do(self, what: Callable[[], Awaitable[None]]) -> None:
        """Run `what` on the loop, and wait for it."""

        async def doing() -> None:
            await what()

        done: Future[None] = asyncio.run_coroutine_threadsafe(doing(), self._loop)
        done.result(_WAIT)

    async def listen(self) -> None:
        """Take new connections."""
        if self._server is None:
            listening = _socket(self.port)
            listening.listen(128)
            self._server = await asyncio.start_server(self._connected, sock=listening)

    async def refuse(self) -> None:
        """Take no new connections."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            await asyncio.sleep(0)

    async def reset(self) -> None:
        """Reset the open connections."""
        open_now = list(self.links)
        for link in open_now:
            link.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await asyncio.sleep(0)  # an aborted transport closes its socket in the next round

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._until_stopped())

    async def _until_stopped(self) -> None:
        await self._stopped.wait()
        await self.refuse()
        await self.reset()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        link = self._loop.create_task(self._link(reader, writer))  # asyncio's own task would log its cancellation
        self.links.add(link)
        link.add_done_callback(self.links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        ended = False
        to_server, to_client = self._ways
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            writers.append(server_writer)
            async with asyncio.TaskGroup() as group:
                _carry(group, reader, server_writer, to_server)
                _carry(group, server_reader, writer, to_client)
            ended = True
        except* OSError:  # one side is gone: so is the other, in the `finally`
            pass
        finally:
            for one in writers:
                if ended:
                    one.close()
                else:
                    one.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                    one.transport.abort()


def _carry(group: asyncio.TaskGroup, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
    pieces: asyncio.Queue[_Piece] = asyncio.Queue(_WAITING)
    group.create_task(_take(reader, pieces, way))
    group.create_task(_give(writer, pieces, way))


async def _take(reader: asyncio.StreamReader, pieces: asyncio.Queue[_Piece], way: Way) -> None:
    """Read, and note when each piece is due: latency makes bytes late, not few."""
    now = asyncio.get_running_loop().time
    due = 0.0
    while True:
        data = await reader.read(_PIECE)
        due = max(due, now() + way.delay())  # jitter does not overtake
        await pieces.put((due, data))
        if not data:
            return


async def _give(writer: asyncio.StreamWriter, pieces: asyncio.Queue[_Piece], way: Way) -> None:
    """Write what is due."""
    now = asyncio.get_running_loop().time
    given = 0
    while True:
        due, data = await pieces.get()
        if (early := due - now()) > 0:
            await asyncio.sleep(early)
        while way.black_hole:  # noqa: ASYNC110  # set by another thread
            await asyncio.sleep(_LOOK)
        if not data:
            writer.write_eof()
            return
        while data:
            bandwidth, most = way.bandwidth, way.reset_after
            size = len(data) if bandwidth is None else max(1, int(bandwidth / _STEPS))
            if most is not None:
                size = min(size, max(0, most - given))
            piece, data = data[:size], data[size:]
            writer.write(piece)
            await writer.drain()
            given += len(piece)
            if bandwidth is not None:
                await asyncio.sleep(len(piece) / bandwidth)
            if most is not None and given >= most:
                raise ConnectionResetError("reset_after")


def _socket(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # the one that listens shares it with the one kept
        made.bind((_HOST, port))
    except BaseException:
        made.close()
        raise
    made.setblocking(False)
    return made
