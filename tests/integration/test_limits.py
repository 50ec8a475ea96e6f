"""Limits of a request, tried with raw sockets against the server that the services run."""

import json
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import Request

from tests.conftest import WaitUntil
from whiteboard import httpserver, limits
from whiteboard.processes import free_port
from whiteboard.settings import Settings
from whiteboard.webapi import create_app

HEAD = b"POST /things HTTP/1.1\r\nHost: x\r\n"
PATIENCE_S = 30.0  # of the test


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, wait_until: WaitUntil) -> Iterator[int]:
    """A server whose patience ends after a fifth of a second."""
    app = create_app("limits", "Limits", dict, settings=Settings(home=tmp_path_factory.mktemp("home")))

    @app.post("/things")
    async def things(request: Request) -> int:
        return len(await request.body())

    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpserver, "HEAD_TIMEOUT_S", 0.2)
        patch.setattr(limits, "BODY_TIMEOUT_S", 0.2)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, **httpserver.OPTIONS))
        thread = threading.Thread(target=server.run)
        thread.start()
        wait_until(lambda: server.started)
        yield port
        server.should_exit = True
        thread.join()


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


def test_a_request_in_pieces_is_served_and_the_connection_kept(port: int) -> None:
    with connect(port) as connection:
        for _ in range(2):
            for piece in (HEAD[:9], HEAD[9:], b"Content-Length: 6\r\n\r\n", b"abc", b"def"):
                connection.sendall(piece)
            received = b""
            while not received.endswith(b"6"):
                received += connection.recv(4096)
            assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"POST /things HT", HEAD, HEAD + b"X-Slow: 1\r\n"])
def test_a_head_that_does_not_end_is_given_up(port: int, sent: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(sent)
        assert refused(connection) == 408


def test_a_head_that_trickles_does_not_win_time(port: int) -> None:
    stop = threading.Event()
    with connect(port) as connection:

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


@pytest.mark.parametrize("length", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"])
@pytest.mark.parametrize("sent", [b"", b"abc"])
def test_a_body_that_does_not_end_is_given_up(port: int, length: bytes, sent: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD + length + sent)
        assert refused(connection) == 408


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD + b"Content-Length: 20000\r\n\r\n")
        assert refused(connection) == 413


def test_a_chunked_body_that_does_not_tell_its_length_is_counted(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
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
        with pytest.raises(OSError):  # a reset, once it has closed
            for _ in range(10_000):
                connection.sendall(b"x" * 65_536)


@pytest.mark.parametrize("sent", [b"\x16\x03\x01\x02\x00\x01\x00", b"nonsense\r\n\r\n", b"GET /\xff HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_is_told_so(port: int, sent: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(sent)
        assert refused(connection) == 400


def test_slow_clients_do_not_keep_others_from_being_served(port: int) -> None:
    slow = [connect(port) for _ in range(50)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(HEAD + (b"Content-Length: 100\r\n\r\nabc" if number % 2 else b""))
        with connect(port) as connection:
            connection.sendall(HEAD + b"Content-Length: 3\r\nConnection: close\r\n\r\nabc")
            status, _, body = answer(connection)
        assert (status, body) == (200, b"3")
        assert {refused(connection) for connection in slow} == {408}
    finally:
        for connection in slow:
            connection.close()
