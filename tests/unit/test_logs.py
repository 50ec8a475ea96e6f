"""Log lines are JSON, and which traces leave any is the same in every process."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from uuid import UUID

from whiteboard.logs import JsonFormatter, logged

TRACES = [UUID(int=number).hex for number in range(10_000)]


def test_a_line_is_one_json_object_with_the_extra_fields() -> None:
    record = logging.makeLogRecord(
        {"msg": "pushed %s", "args": ("it",), "levelname": "INFO", "trace": "4b\n", "offset": 17}
    )
    line = JsonFormatter("stream").format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("at").endswith("+00:00")
    assert found == {"process": "stream", "level": "INFO", "message": "pushed it", "trace": "4b\n", "offset": 17}


def test_the_share_of_traces_that_are_logged_is_the_one_asked_for() -> None:
    assert not any(logged(trace, 0.0) for trace in TRACES)
    assert all(logged(trace, 1.0) for trace in TRACES)
    assert 800 < sum(logged(trace, 0.1) for trace in TRACES) < 1200


def test_a_trace_that_is_logged_at_a_share_is_logged_at_every_larger_one() -> None:
    few = {trace for trace in TRACES if logged(trace, 0.01)}
    assert few and few <= {trace for trace in TRACES if logged(trace, 0.1)}


def test_what_has_no_trace_is_never_logged() -> None:
    assert not logged("", 1.0)


def test_what_a_process_dies_of_is_its_last_line_and_libraries_warnings_are_none() -> None:
    program = """
import warnings
from whiteboard.logs import configure_logging

configure_logging("monitor")
warnings.warn("old", DeprecationWarning)
raise ModuleNotFoundError("gone")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    found = json.loads(line)
    assert (found["process"], found["message"], done.returncode) == ("monitor", "died", 1)
    assert "gone" in found["exception"]


def test_every_logger_of_ours_is_heard() -> None:
    root = Path(__file__).parents[2]
    sources = "".join(p.read_text() for folder in ("whiteboard", "services") for p in (root / folder).rglob("*.py"))
    names = sorted(set(re.findall(r'^log = logging.getLogger\("(\w+)"\)', sources, re.MULTILINE)) - {"librdkafka"})
    assert {"fraud", "recommendation"} <= set(names)
    told = "; ".join(f"logging.getLogger({name!r}).info('here')" for name in names)
    program = f"import logging; from whiteboard.logs import configure_logging; configure_logging('x'); {told}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == len(names), done.stderr


def test_what_is_told_past_the_loggers_is_the_line_that_they_would_write() -> None:
    program = """
import logging
from whiteboard.logs import configure_logging, tell

configure_logging("fraud", lambda name: "p-" + name[::-1])
log, fields = logging.getLogger("fraud"), {"trace": "4bf9", "customer_id": "c-12", "degraded": False}
log.info("decided", extra=fields)
tell(log, "decided", fields, fields | {"trace": "4bfa"})
tell(logging.getLogger("a library"), "decided", fields)
logging.getLogger().addHandler(logging.NullHandler())
tell(log, "decided", fields)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(line.pop("at") for line in lines)
    first, *others = lines
    assert first | {"trace": "4bfa"} == others[1]
    assert others == [first, others[1], first]
    assert first["customer_id"] == "p-21-c"


def test_what_is_no_utf8_and_what_is_beyond_64_bits_is_told_too() -> None:
    record = logging.makeLogRecord({"msg": "refused", "transaction_id": "a\ud800", "amount": 2**70})
    found = json.loads(JsonFormatter("fraud").format(record))
    assert (found["transaction_id"], found["amount"]) == ("a\ud800", 2**70)
