"""Several processes of one service behind one port: a worker a core, replaced one after the other without a gap.

    python -m whiteboard.workers services.fraud.app --port 8001 --workers 2     (= services.fraud.app --workers 2)

    port 8001          a socket a worker, bound here with SO_REUSEPORT: the system spreads connections over them
    8011, 8021, 8031   each worker's own port, the first that is free: /metrics and /health of this very process

A worker that dies is started anew. SIGHUP replaces all of them: a new one is started and, when it serves, an old one
drains (httpserver.py). The new one inherits the old one's socket, with the connections that wait in its queue: they
would be reset if the socket went with the process. SIGTERM ends all; so does the death of this process, since each
worker reads from a pipe.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from ipaddress import ip_address
from itertools import count
from types import FrameType
from typing import Annotated

import typer

from whiteboard.logs import configure_logging
from whiteboard.processes import url_answers

log = logging.getLogger("whiteboard")

POLL_S = 0.1
READY_TIMEOUT_S = 120.0  # imports and the loading of models, on busy cores
END_TIMEOUT_S = 90.0  # the longest drain, requests under way, and events on their way to the log
RESTART_S = 1.0
PORT_STEP = 10  # the next port up is the next system's


def _reachable(host: str) -> str:
    """An address at which this machine reaches what is bound to `host`: loopback, if that is all addresses."""
    with suppress(ValueError):  # a name
        if ip_address(host).is_unspecified:
            return "127.0.0.1"
    return host


class Worker:
    """One process, and its own port."""

    def __init__(self, module: str, host: str, port: int, listener: socket.socket) -> None:
        self.port, self.listener, self.started = port, listener, time.monotonic()
        command = [sys.executable, "-m", module, "--host", host, "--port", str(port)]
        fd = listener.fileno()
        self._child = subprocess.Popen([*command, "--shared-fd", str(fd)], pass_fds=[fd], stdin=subprocess.PIPE)
        self._answers = url_answers(f"http://{_reachable(host)}:{port}/health/live")

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._child.poll() is None

    def serves(self) -> bool:
        """Whether it accepts requests."""
        return self.alive and self._answers()

    def drain(self) -> None:
        """Asks it to end, and does not wait."""
        if self.alive:
            self._child.terminate()

    def wait_ended(self, timeout_s: float = END_TIMEOUT_S) -> None:
        """Returns once it has ended; kills it if that takes too long."""
        try:
            self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


class Workers:
    """Keeps `number` workers of a service running."""

    def __init__(self, module: str, host: str, port: int, number: int) -> None:
        self._module, self._host, self._port, self._number = module, host, port, number
        self._workers: list[Worker] = []
        self._ending = self._replacing = False

    def run(self) -> None:
        """Serves until SIGTERM or SIGINT."""
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        signal.signal(signal.SIGHUP, self._replace)
        self._workers = []
        for _ in range(self._number):
            self._start()
        while not self._ending:
            time.sleep(POLL_S)
            self._revive()
            if self._replacing:
                self._replacing = False
                self._replace_all()
        for worker in self._workers:
            worker.drain()
            worker.listener.close()
        for worker in self._workers:
            worker.wait_ended()

    def _start(self, listener: socket.socket | None = None) -> Worker:
        port = next(p for p in count(self._port + PORT_STEP, PORT_STEP) if self._is_free(p))
        worker = Worker(self._module, self._host, port, listener or self._bound())
        self._workers.append(worker)
        log.info("worker started", extra={"port": port})
        return worker

    def _bound(self) -> socket.socket:
        """A socket of the common port. It gets connections once its worker listens, not before."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((self._host, self._port))
        return listener

    def _is_free(self, port: int) -> bool:
        if any(worker.port == port for worker in self._workers):
            return False
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._host, port))
            except OSError:
                return False
        return True

    def _revive(self) -> None:
        for worker in [w for w in self._workers if not w.alive and time.monotonic() - w.started > RESTART_S]:
            log.error("worker ended", extra={"port": worker.port})
            self._workers.remove(worker)
            worker.listener.close()  # else connections would go on being queued there
            self._start()

    def _replace_all(self) -> None:
        for old in list(self._workers):
            new = self._start(old.listener)
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not new.serves():
                if self._ending or time.monotonic() > deadline or not new.alive:
                    log.error("the new worker does not serve; the old ones stay", extra={"port": new.port})
                    self._workers.remove(new)
                    new.drain()
                    new.wait_ended()
                    return
                time.sleep(POLL_S)
            self._workers.remove(old)
            old.drain()
            old.wait_ended()
        log.info("workers replaced", extra={"workers": len(self._workers)})

    def _end(self, _: int, __: FrameType | None) -> None:
        self._ending = True

    def _replace(self, _: int, __: FrameType | None) -> None:
        self._replacing = True


def become_supervisor(module: str, host: str, port: int, workers: int) -> None:
    """Turns this process into the supervisor of `workers` of `module`: without what it has imported for serving."""
    arguments = [module, "--host", host, "--port", str(port), "--workers", str(workers)]
    os.execv(sys.executable, [sys.executable, "-m", "whiteboard.workers", *arguments])


def end_with_supervisor() -> None:
    """Has this process end, gracefully, when its supervisor is gone and the pipe from it with it."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def main(
    module: Annotated[str, typer.Argument(help="a service, such as services.fraud.app")],
    port: Annotated[int, typer.Option(help="port that all workers serve")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Keeps several processes of a service behind one port until SIGTERM; SIGHUP replaces them one by one."""
    configure_logging("workers")
    Workers(module, host, port, workers).run()


if __name__ == "__main__":
    typer.run(main)
