"""Structured logs: one JSON object a line, with the process's name and, where there is one, the trace id.

Fields that name a person hold a pseudonym: the formatter sees to it, whoever logs.

{"at": "2026-11-20T09:14:03.120Z", "process": "stream", "level": "INFO", "message": "throughput", "events": 512}
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO
from zlib import crc32

import msgspec

PERSONAL = ("customer_id", "user_id", "unit_id", "entity")  # fields that name a person; also tables' columns
_encode = msgspec.json.Encoder(enc_hook=str).encode
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats a record, its `extra` fields included, as one line of JSON."""

    def __init__(self, process: str, pseudonym: Callable[[str], str] | None = None) -> None:
        super().__init__()
        self._process, self._pseudonym = process, pseudonym or _unknown

    def format(self, record: logging.LogRecord) -> str:
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return self.line(record.created, record.levelname, record.getMessage(), fields)

    def line(self, created: float, level: str, message: str, fields: Mapping[str, object]) -> str:
        """A line of what happened at the Unix time `created`."""
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds"),
            "process": self._process,
            "level": level,
            "message": message,
            **fields,
        }
        for name in PERSONAL:
            if name in fields:
                line[name] = self._pseudonym(str(fields[name]))
        try:
            return _encode(line).decode()
        except (ValueError, OverflowError):  # half a surrogate pair, a number beyond 64 bits: whatever came, it is told
            return json.dumps(line, default=str)


class _Lines(logging.StreamHandler[TextIO]):
    """Writes to standard error: what loggers say, and what is told past them."""

    def __init__(self, formatter: JsonFormatter) -> None:
        super().__init__()
        self._json = formatter
        self.setFormatter(formatter)

    def tell(self, message: str, each: Iterable[Mapping[str, object]]) -> None:
        lines = [self._json.line(time.time(), "INFO", message, fields) + "\n" for fields in each]
        with self.lock or nullcontext(), suppress(OSError, ValueError):  # a log that cannot be written stops nobody
            self.stream.write("".join(lines))  # standard error flushes at the end of a line


def tell(log: logging.Logger, message: str, *each: Mapping[str, object]) -> None:
    """`log.info(message, extra=fields)` for each of these fields, for what is told of every request.

    The record between costs thrice what the line does. It is left out where `configure_logging` was called, and nobody
    has added another handler since.
    """
    match logging.root.handlers:
        case [_Lines() as lines]:
            if log.isEnabledFor(logging.INFO):
                lines.tell(message, each)
        case _:
            for fields in each:
                log.info(message, extra=fields)


def logged(trace: str, share: float) -> bool:
    """Whether this trace is among the `share` of traces that get log lines; an empty one (bulk ingest) never is.

    All processes decide alike, since only the trace id counts: a trace is in the log of each of them or of none.

    >>> logged("4bf92f35", 1.0), logged("4bf92f35", 0.0), logged("", 1.0)
    (True, False, False)
    """
    return bool(trace) and (share >= 1 or crc32(trace.encode()) < share * 2**32)


def configure_logging(process: str, pseudonym: Callable[[str], str] | None = None, level: int = logging.INFO) -> None:
    """Sends this process's logs to standard error as JSON lines; libraries speak from WARNING on.

    `pseudonym` is what persons are called by (pseudonyms.py); without it they are not told apart.

    What the process dies of is its last line. Python's warnings, of libraries to libraries, are left out.
    """
    logging.basicConfig(level=logging.WARNING, handlers=[_Lines(JsonFormatter(process, pseudonym))], force=True)
    for name in ("stream", "fraud", "recommendation", "monitor", "traffic", "whiteboard"):
        logging.getLogger(name).setLevel(level)
    _leave_out_what_no_line_tells()
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").setLevel(logging.ERROR)
    sys.excepthook = _log_death


def _leave_out_what_no_line_tells() -> None:
    """Spares every line the search for its caller, thread and process, a third of what it costs.

    https://docs.python.org/3/howto/logging.html#optimization
    """
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _unknown(_: str) -> str:
    return "a person"


def _log_death(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    logging.getLogger("whiteboard").critical("died", exc_info=(kind, error, traceback))
