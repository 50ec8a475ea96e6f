"""A service with nothing but the HTTP side, run as a process: what is shared by all of them is tried with it.

PYTHONPATH=tests/integration python -m toyservice --port 20111
"""

import asyncio
import os
import sys
from pathlib import Path

from whiteboard.edge import Reply
from whiteboard.httpserver import serve
from whiteboard.settings import Settings
from whiteboard.webapi import WebApp, create_app
from whiteboard.workers import end_with_supervisor


def build(home: Path) -> WebApp:
    """POST /work answers with the process id: at once, or when the file exists whose path is the body."""
    app = create_app("toy", "Toy", dict, settings=Settings(home=home))

    @app.direct("/work")
    async def work(body: bytes, trace: str) -> Reply:
        """Waits."""
        while body and not os.path.exists(body):
            await asyncio.sleep(0.01)
        return Reply(b"%d" % os.getpid())

    return app


if __name__ == "__main__":
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    shared_fd = int(given["--shared-fd"]) if "--shared-fd" in given else None
    if shared_fd is not None:
        end_with_supervisor()
    settings = Settings()
    serve(build(settings.home), "127.0.0.1", int(given["--port"]), drain_s=settings.drain_s, shared_fd=shared_fd)
