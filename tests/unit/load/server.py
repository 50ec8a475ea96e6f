"""A server that behaves as its paths say, on a thread of its own.

GET /ok       200 {"degraded":false}         GET /degraded   200 {"degraded":true}     GET /busy    503
GET /slow     200 after 50 ms                GET /hang       nothing, ever             GET /gone    ends the connection
GET /noise    what is no HTTP                GET /last       200 and Connection: close
"""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from types import TracebackType

SLOW_S = 0.05


class Server:
    """Counts the requests by path and the connections open at once; stalls when told."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.headers: defaultdict[str, set[str]] = defaultdict(set)
        self.connections = self.most_connections = self.opened = 0
        self.stall_at = 0  # the number of the request at which everything stops for `stall_s`; 0: never
        self.stall_s = 0.0
        self.gone_once = False  # GET /gone ends the first connection only
        self._until = 0.0
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.opened += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            while await self._answer(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0)
        await reader.readexactly(length)
        path = head.split()[1]
        for line in head.splitlines()[1:-1]:
            name, _, value = line.partition(": ")
            self.headers[name].add(value)
        self.requests[path] += 1
        if self.stall_at == self.requests.total():
            self._until = time.monotonic() + self.stall_s
        await asyncio.sleep(self._until - time.monotonic())
        if path == "/noise":
            writer.write(b"What do you want?\r\n\r\n")
            return True
        if path == "/hang":
            await asyncio.sleep(3600)
        if path == "/gone" and not (self.gone_once and self.requests[path] > 1):
            return False
        if path == "/slow":
            await asyncio.sleep(SLOW_S)
        status = "503 Service Unavailable" if path == "/busy" else "200 OK"
        body = b'{"degraded":true}' if path == "/degraded" else b'{"degraded":false}'
        last = "Connection: close\r\n" if path == "/last" else ""
        writer.write(f"HTTP/1.1 {status}\r\n{last}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return not last
