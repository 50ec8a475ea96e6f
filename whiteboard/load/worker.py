"""A sending process of a load test, started by `whiteboard.load.run` with the number of its end of a socket pair.

in   search path, (plan, part), then when to begin; "stop" at any time; the end of the pair ends the process
out  "ready", then counts every 50 ms, at last the rows
"""

import gc
import sys
import time
from multiprocessing.connection import Connection

from whiteboard.load.generator import Generator, loop
from whiteboard.load.plan import clock


def serve(pipe: Connection) -> None:
    """Sends this process's part of the requests."""
    sys.path[:] = pipe.recv()
    plan, part = pipe.recv()
    gc.disable()  # what piles up is kept anyway, and a collection would look like a slow answer
    due = plan.schedule()[part :: plan.processes]
    numbers = range(plan.first_number + part, sys.maxsize, plan.processes)
    connections = len(range(part, max(plan.connections, plan.processes), plan.processes))
    pipe.send("ready")
    generator = Generator(plan, due, numbers, pipe.recv(), connections)

    def look() -> bool:
        pipe.send((len(generator.rows), generator.failed))
        return not pipe.poll()  # there is but one thing to be told from now on

    events = loop()
    used = time.process_time()
    rows = events.run_until_complete(generator.run(look))
    pipe.send((rows, clock(), time.process_time() - used))


if __name__ == "__main__":
    try:
        serve(Connection(int(sys.argv[1])))
    except (EOFError, BrokenPipeError):
        sys.exit(1)  # whoever asked is gone
