"""Load during a drill: requests at a steady rate, whatever becomes of them, over all replicas of a service.

    with Traffic([8001, 8002], requests, rate=100) as traffic:
        traffic.go_on(2)
        traffic.note("the broker is killed")
        …
    traffic.replies      one for each request: when it was due, how long it took, what came back

Arrivals are open-loop: latency counts from the moment at which a request was due. A client behaves as the gateway does
that stands before the replicas: one that refuses or breaks the connection is left alone for a second, and the request
goes, unchanged, to another. A refusal (503) is an answer and is not tried again.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from whiteboard.drills.outcome import Moment
from whiteboard.errors import ProcessError

LEFT_ALONE_S = 1.0  # a replica that broke a connection, as nginx's fail_timeout does it
PAUSE_S = 0.05  # before a request is tried again
TRIES_S = 10.0  # for which a request is tried again
LONGEST_LAG_S = 0.1  # behind the schedule
BUSY = 0.1  # share of the answers that may be degraded without a fault: on a busy machine any read may be late

HTTP_OK = 200
UNAVAILABLE = 503


class Ask(NamedTuple):
    """A request to send; `about` is what the drill knows of it (the payment, the user)."""

    method: str
    path: str
    body: bytes
    about: dict[str, Any]


@dataclass(slots=True)
class Reply:
    """What became of a request; status 0 means that there was no answer."""

    about: dict[str, Any]
    due_s: float  # since the traffic began
    latency_ms: float = 0.0
    status: int = 0
    tries: int = 0
    replica: int = 0
    sent_s: float = 0.0
    answered_s: float = 0.0
    retry_after: str | None = None
    body: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status == HTTP_OK

    @property
    def degraded(self) -> bool:
        return bool(self.body.get("degraded"))


class Traffic:
    """Requests from `asks` at `rate` a second, from `__enter__` until `__exit__`, which waits for the last answers."""

    def __init__(self, ports: list[int], asks: Iterator[Ask], rate: float, timeout_s: float = 10.0) -> None:
        self._ports, self._asks, self.rate, self._timeout_s = ports, asks, rate, timeout_s
        self.replies: list[Reply] = []  # in the order in which they were answered
        self.moments: list[Moment] = []
        self._alone_until = [0.0] * len(ports)
        self._free: list[list[_Connection]] = [[] for _ in ports]
        self._stop, self._to_rest, self._rests = threading.Event(), threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._taken = 0
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> "Traffic":
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def now_s(self) -> float:
        """Seconds since the traffic began."""
        return time.monotonic() - self._began

    def note(self, what: str) -> Moment:
        """Notes that something happens now."""
        moment = Moment(round(self.now_s, 3), what)
        self.moments.append(moment)
        return moment

    def go_on(self, seconds: float) -> None:
        """Lets the traffic flow for so long."""
        time.sleep(seconds)

    def rest(self) -> None:
        """Sends nothing until `wake`; what is under way is answered. Afterwards `asks` is the caller's."""
        self._to_rest.set()
        while not self._rests.wait(0.1) and self._thread.is_alive():
            pass

    def wake(self) -> None:
        """Goes on sending."""
        self._rests.clear()
        self._to_rest.clear()

    def until(self, condition: Callable[[], bool], timeout_s: float) -> float | None:
        """Seconds until the condition is true, None if it is not in time."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > timeout_s:
                return None
            time.sleep(0.05)
        return time.monotonic() - began

    def sound_since(self, since_s: float, enough: int = 20) -> bool:
        """Whether the last `enough` requests due after `since_s` are answered as well as before anything happened.

        The share of them that is degraded may be higher by BUSY.
        """
        first = self.moments[0].at_s if self.moments else since_s
        before = [reply.degraded for reply in self.replies if reply.due_s < first and reply.answered_s < first]
        usual = sum(before) / len(before) if before else 0.0
        last = [reply for reply in self.replies[-4 * enough :] if reply.due_s >= since_s][-enough:]
        degraded = sum(reply.degraded for reply in last)
        return len(last) == enough and all(r.ok for r in last) and degraded <= (usual + BUSY) * enough

    def fresh(self) -> list[Reply]:
        """The replies that have come since the last call."""
        found = self.replies[self._taken :]
        self._taken += len(found)
        return found

    def between(self, since: Moment, until: Moment) -> list[Reply]:
        """The replies to requests that were due between two moments."""
        return [reply for reply in self.replies if since.at_s <= reply.due_s < until.at_s]

    def _run(self) -> None:
        try:
            asyncio.run(self._send_all())
        except BaseException as error:  # raised again where the traffic is left
            self._failure = error

    async def _send_all(self) -> None:
        flying: set[asyncio.Task[None]] = set()
        due_s = self.now_s
        while not self._stop.is_set():
            if self._to_rest.is_set():
                self._rests.set()
                await asyncio.sleep(PAUSE_S)
                due_s = self.now_s
                continue
            # If this process was stopped for long, nothing was due meanwhile: else all of it came at once.
            due_s = max(due_s + 1 / self.rate, self.now_s - LONGEST_LAG_S)
            if (early := due_s - self.now_s) > 0:
                await asyncio.sleep(early)
            ask = next(self._asks, None)
            if ask is None:
                raise ProcessError("the world has no more requests; choose a lower rate or a larger world")
            task = asyncio.create_task(self._send(ask, Reply(ask.about, due_s)))
            flying.add(task)
            task.add_done_callback(flying.discard)
        if flying:
            await asyncio.wait(flying)
        for connection in (c for free in self._free for c in free):
            connection.close()

    async def _send(self, ask: Ask, reply: Reply) -> None:
        while True:
            reply.tries += 1
            reply.replica = self._choose(reply.tries)
            reply.sent_s = self.now_s
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._exchange(ask, reply)
                break
            except TimeoutError:
                reply.error = f"no answer within {self._timeout_s:g} s"
                break
            except (OSError, asyncio.IncompleteReadError) as error:
                reply.error = repr(error)
                self._alone_until[reply.replica] = self.now_s + LEFT_ALONE_S
                if self.now_s - reply.due_s > TRIES_S:
                    break
                await asyncio.sleep(PAUSE_S)
        reply.answered_s = self.now_s
        reply.latency_ms = (reply.answered_s - reply.due_s) * 1000
        self.replies.append(reply)

    def _choose(self, tries: int) -> int:
        """The replicas in turn; those that broke a connection lately only if there is no other."""
        order = [(len(self.replies) + tries + i) % len(self._ports) for i in range(len(self._ports))]
        return next((r for r in order if self._alone_until[r] < self.now_s), order[0])

    async def _exchange(self, ask: Ask, reply: Reply) -> None:
        free = self._free[reply.replica]
        connection = free.pop() if free else await _Connection.open(self._ports[reply.replica])
        kept = False
        try:
            reply.status, headers, body = await connection.exchange(ask)
            kept = headers.get("connection") != "close"
        finally:
            if kept:
                free.append(connection)
            else:
                connection.close()
        reply.retry_after = headers.get("retry-after")
        reply.body = json.loads(body) if reply.ok else {}
        reply.error = "" if reply.ok else body[:200].decode(errors="replace")


class _Connection:
    """One kept connection, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def exchange(self, ask: Ask) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer."""
        length = f"Content-Type: application/json\r\nContent-Length: {len(ask.body)}\r\n" if ask.body else ""
        self._writer.write(f"{ask.method} {ask.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{length}\r\n".encode() + ask.body)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split(" ")[1]), headers, await self._reader.readexactly(int(headers["content-length"]))

    def close(self) -> None:
        self._writer.close()
