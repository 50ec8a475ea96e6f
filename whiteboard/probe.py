"""Health of a process by what it exports: the health check of every container.

    python -m whiteboard.probe http://127.0.0.1:8001/health/ready      the answer must be 200
    python -m whiteboard.probe http://127.0.0.1:9101/metrics --beat 30  and the main loop came round within 30 s

A thread that serves metrics goes on serving them when the loop that does the work hangs; the beat tells. Only the
standard library is imported: this runs every few seconds in every container.
"""

import re
import sys
import time
import urllib.request

BEAT = re.compile(rb"^whiteboard_beat_timestamp_seconds (\S+)$", re.MULTILINE)


def unhealthy(url: str, beat_s: float | None = None, timeout_s: float = 4.0) -> str:
    """Why the process behind `url` is not healthy; empty if it is."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            body = response.read()
    except OSError as error:
        return f"{url}: {error}"
    if beat_s is None:
        return ""
    found = BEAT.search(body)
    if found is None:
        return f"{url}: exports no whiteboard_beat_timestamp_seconds"
    age_s = time.time() - float(found[1])
    return "" if age_s <= beat_s else f"{url}: the main loop came round {age_s:.0f} s ago, expected at most {beat_s:g}"


if __name__ == "__main__":
    problem = unhealthy(sys.argv[1], float(sys.argv[3]) if sys.argv[2:3] == ["--beat"] else None)
    print(problem or "healthy")
    sys.exit(1 if problem else 0)
