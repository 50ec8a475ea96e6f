"""What the HTTP server that the services run makes of bytes, tried with raw sockets: its limits, and both its ways.

/things goes through FastAPI, /direct past it.
"""

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from fastapi import Request

from tests.conftest import WaitUntil
from whiteboard import httpserver, limits
from whiteboard.edge import Reply
from whiteboard.processes import free_port
from whiteboard.settings import Settings
from whiteboard.webapi import create_app

HEAD = b"POST /things HTTP/1.1\r\nHost: x\r\n"
DIRECT = b"POST /direct HTTP/1.1\r\nHost: x\r\n"
PATIENCE_S = 30.0  # of the test


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, wait_until: WaitUntil) -> Iterator[int]:
    """A server."""
    settings = Settings(home=tmp_path_factory.mktemp("home"), deadline_ms=20_000)  # it sheds nothing
    app = create_app("limits", "Limits", dict, settings=settings)

    @app.post("/things")
    async def things(request: Request) -> int:
        return len(await request.body())

    @app.direct("/direct")
    async def direct(body: bytes, trace: str) -> Reply:
        """The body's length; a bug for one of 13 bytes."""
        if len(body) == 13:
            raise ValueError("bad luck")
        return Reply(b"%d" % len(body), [(b"x-seen", trace.encode())])

    @app.direct("/asked", "GET")
    async def asked(query: bytes, trace: str) -> Reply:
        """The query string."""
        return Reply(query)

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **httpserver.options(app)))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield port
    server.should_exit = True
    thread.join()


@pytest.fixture
def impatient(port: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """The same; its patience ends after a fifth of a second."""
    monkeypatch.setattr(httpserver, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 0.2)
    return port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of what comes until the server closes; it must close."""
    received = b""
    while chunk := connection.recv(65_536):
        received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:]), body


def refused(connection: socket.socket) -> int:
    status, headers, body = answer(connection)
    assert headers["content-type"] == "application/problem+json" and headers["connection"] == "close"
    assert json.loads(body)["status"] == status
    return status


def answers(port: int, sent: bytes, ending: bytes) -> bytes:
    """What comes until it ends so; the connection need not be closed."""
    with connect(port) as connection:
        connection.sendall(sent)
        received = b""
        while not received.endswith(ending):
            chunk = connection.recv(65_536)
            assert chunk, received
            received += chunk
    return received


both = pytest.mark.parametrize("head", [HEAD, DIRECT], ids=["through FastAPI", "direct"])


@both
def test_a_request_in_pieces_is_served_and_the_connection_kept(port: int, head: bytes) -> None:
    with connect(port) as connection:
        for _ in range(2):
            for piece in (head[:9], head[9:], b"Content-Length: 6\r\n\r\n", b"abc", b"def"):
                connection.sendall(piece)
            received = b""
            while not received.endswith(b"6"):
                chunk = connection.recv(4096)
                assert chunk, received
                received += chunk
            assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"POST /things HT", HEAD, HEAD + b"X-Slow: 1\r\n"])
def test_a_head_that_does_not_end_is_given_up(impatient: int, sent: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(sent)
        assert refused(connection) == 408


def test_a_head_that_trickles_does_not_win_time(impatient: int) -> None:
    stop = threading.Event()
    with connect(impatient) as connection:

        def trickle() -> None:
            connection.sendall(HEAD)
            while not stop.wait(0.02):
                try:
                    connection.sendall(b"X-Slow: 1\r\n")
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        try:
            assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")
        finally:
            stop.set()
            sender.join()


@both
@pytest.mark.parametrize("length", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"])
@pytest.mark.parametrize("sent", [b"", b"abc"])
def test_a_body_that_does_not_end_is_given_up(impatient: int, head: bytes, length: bytes, sent: bytes) -> None:
    with connect(impatient) as connection:
        connection.sendall(head + length + sent)
        assert refused(connection) == 408


@both
@pytest.mark.parametrize("length", [b"20000", b"9" * 19])
def test_a_body_that_is_too_large_is_refused_before_it_is_sent(port: int, head: bytes, length: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(head + b"Content-Length: " + length + b"\r\n\r\n")
        assert refused(connection) == 413


@both
def test_a_chunked_body_that_does_not_tell_its_length_is_counted(port: int, head: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
        connection.sendall(4 * (b"1000\r\n" + b"x" * 0x1000 + b"\r\n"))
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("pieces", [1, 8])
@pytest.mark.parametrize("where", ["url", "header", "headers"])
def test_a_head_that_is_too_large_is_refused(port: int, where: str, pieces: int) -> None:
    large = b"x" * 20_000
    head = {
        "url": b"POST /" + large + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "header": HEAD + b"X-Large: " + large + b"\r\n\r\n",
        "headers": HEAD + b"X-Many: 1234567890\r\n" * 1000 + b"\r\n",
    }[where]
    with connect(port) as connection:
        step = len(head) // pieces + 1
        for start in range(0, len(head), step):
            connection.sendall(head[start : start + step])
        assert refused(connection) == 431


def test_a_head_without_end_is_refused_before_it_fills_the_memory(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD + b"X-Large: ")
        with pytest.raises(ConnectionError):  # once it has closed
            for _ in range(10_000):
                connection.sendall(b"x" * 65_536)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"nonsense\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_told_so(port: int, sent: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(sent)
        assert refused(connection) == 400


def test_a_direct_route_gives_the_same_answer_whichever_way_a_request_takes(port: int) -> None:
    """The unusual ones are passed on to ASGI: chunks, HTTP/1.0, one that waits to be told to go on."""
    close = b"Connection: close\r\n"
    sent = {
        "usual": DIRECT + close + b"X-Request-Id: t\r\nContent-Length: 3\r\n\r\nabc",
        "chunks": DIRECT + close + b"X-Request-Id: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "1.0": b"POST /direct HTTP/1.0\r\nX-Request-Id: t\r\nContent-Length: 3\r\n\r\nabc",
        "expecting": DIRECT + close + b"Expect: 100-continue\r\nX-Request-Id: t\r\nContent-Length: 3\r\n\r\nabc",
    }
    got = {}
    for way, request in sent.items():
        with connect(port) as connection:
            connection.sendall(request)
            received = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, body = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
        got[way] = sorted(line for line in head.split(b"\r\n") if not line.startswith(b"date: ")), body
        assert b"\r\ndate: " in head
    expected = [b"HTTP/1.1 200 OK", b"connection: close", b"content-length: 1", b"content-type: application/json"]
    assert got["usual"] == (sorted([*expected, b"x-request-id: t", b"x-seen: t"]), b"3")
    assert got == dict.fromkeys(sent, got["usual"])


def test_requests_sent_at_once_are_answered_in_their_order(port: int) -> None:
    sent = [(DIRECT, 1), (DIRECT, 22), (HEAD, 333), (DIRECT, 4444), (HEAD, 55555 % 9999)]
    pipeline = b"".join(head + b"Content-Length: %d\r\n\r\n" % n + b"x" * n for head, n in sent)
    received = answers(port, pipeline, b"%d" % sent[-1][1])
    parts = [part.partition(b"\r\n\r\n")[2].strip() for part in received.split(b"HTTP/1.1 200 OK")[1:]]
    assert parts == [b"%d" % n for _, n in sent]


def test_a_direct_get_has_its_query_and_what_is_wrong_is_a_problem(port: int) -> None:
    assert answers(port, b"GET /asked?a=1&b=%20 HTTP/1.1\r\nHost: x\r\n\r\n", b"a=1&b=%20").startswith(b"HTTP/1.1 200")
    deep = b"[" * 9
    assert answers(port, DIRECT + b"Content-Length: 9\r\n\r\n" + deep, b"}").startswith(b"HTTP/1.1 422")
    bug = answers(port, DIRECT + b"Content-Length: 13\r\n\r\n" + 13 * b"x", b"}")
    assert bug.startswith(b"HTTP/1.1 500") and b"bad luck" not in bug
    assert answers(port, b"GET /direct HTTP/1.1\r\nHost: x\r\n\r\n", b"}").startswith(b"HTTP/1.1 405")


@both
def test_a_connection_is_closed_when_it_is_idle_and_not_while_it_is_used(
    port: int, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Used for longer than it may be idle, in requests and in one that takes its time."""
    init = httpserver.LimitedProtocol.__init__

    def patient(self: Any, **given: Any) -> None:
        init(self, **given)
        self.timeout_keep_alive = 0.5

    monkeypatch.setattr(httpserver.LimitedProtocol, "__init__", patient)
    with connect(port) as connection:
        for pieces in ((head + b"Content-Length: 3\r\n\r\na", b"bc"), (head, b"Content-Length: 3\r\n\r\nabc")):
            connection.sendall(pieces[0])
            time.sleep(0.7)  # within a body, within a head
            connection.sendall(pieces[1])
            assert connection.recv(65_536).endswith(b"3")
        assert connection.recv(65_536) == b"", "closed by the server, without a word"


def test_who_goes_away_half_way_through_a_body_harms_nobody(port: int) -> None:
    for _ in range(20):
        with connect(port) as connection:
            connection.sendall(DIRECT + b"Content-Length: 100\r\n\r\nabc")
    assert answers(port, DIRECT + b"Content-Length: 3\r\n\r\nabc", b"3").startswith(b"HTTP/1.1 200")


@both
def test_slow_clients_do_not_keep_others_from_being_served(
    port: int, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(httpserver, "HEAD_TIMEOUT_S", 2.0)
    monkeypatch.setattr(limits, "BODY_TIMEOUT_S", 2.0)
    slow = [connect(port) for _ in range(50)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(head + (b"Content-Length: 100\r\n\r\nabc" if number % 2 else b""))
        with connect(port) as connection:
            connection.sendall(head + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc")
            status, _, body = answer(connection)
        assert (status, body) == (200, b"3")
        assert {refused(connection) for connection in slow} == {408}
    finally:
        for connection in slow:
            connection.close()
