"""Where the lake ends: its commit files and the numbers of its logs, without the libraries that read and write Parquet.

    lake/fraud.transactions/_commits/000000-000002-00000000000000000120.json    epoch-partition-first
    lake/fraud.transactions/_epochs.json                                        ["01a2179d-…", …], the logs in order

Whoever only asks whether an event has reached the lake (the forwarder of a spool) asks here.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

from whiteboard.errors import LakeError


class Commits:
    """The commits below one folder, which need not exist yet."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def epoch(self, topic: str, log_id: str) -> int:
        """The number of this log of `topic`: 0 for the first one seen, 1 for its successor, …

        One that is seen for the first time is the newest from now on, and older ones are final: see `newest`.
        """
        with self._epochs_locked(topic, fcntl.LOCK_EX) as path:
            known = _read_epochs(path)
            if log_id not in known:
                known.append(log_id)
                write_beside(path, json.dumps(known).encode()).replace(path)
            return known.index(log_id)

    def epochs(self, topic: str) -> list[str]:
        """The ids of the logs that were seen of `topic`; the place of each is its epoch."""
        return _read_epochs(self.root / topic / "_epochs.json")

    @contextmanager
    def newest(self, topic: str, epoch: int) -> Iterator[None]:
        """Within it no newer log of `topic` is registered. Raises LakeError if one already is.

        What was lost with a log and is not in the lake is sent again to the next log. An old worker that was paused,
        and puts its events into the lake after all, would double them.
        """
        with self._epochs_locked(topic, fcntl.LOCK_SH) as path:
            if epoch + 1 < len(known := _read_epochs(path)):
                raise LakeError(
                    f"{topic}: epoch {epoch} is over, the newest log is epoch {len(known) - 1} ({known[-1]}); "
                    "restart the worker, which then reads that one"
                )
            yield

    @contextmanager
    def _epochs_locked(self, topic: str, how: int) -> Iterator[Path]:
        path = self.root / topic / "_epochs.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / "_epochs.lock").open("w") as lock:
            fcntl.flock(lock, how)
            yield path

    def end(self, topic: str, epoch: int, partition: int) -> int:
        """The first offset that is not yet in the lake; 0 for a partition without a commit."""
        commits = self._commits(topic, f"{epoch:06d}-{partition:06d}-*.json")
        return int(json.loads(commits[-1].read_text())["last"]) + 1 if commits else 0

    def coverage(self, topic: str) -> dict[tuple[int, int], int]:
        """By (epoch, partition): the first offset that is not yet in the lake. Offsets without a valid event count."""
        newest = {tuple(int(x) for x in path.stem.split("-")[:2]): path for path in self._commits(topic)}
        return {(epoch, at): json.loads(path.read_text())["last"] + 1 for (epoch, at), path in newest.items()}

    def _commits(self, topic: str, pattern: str = "*.json") -> list[Path]:
        """Commit files by epoch, partition and first offset."""
        return sorted((self.root / topic / "_commits").glob(pattern))


def _read_epochs(path: Path) -> list[str]:
    known: list[str] = json.loads(path.read_text()) if path.exists() else []
    return known


def write_beside(path: Path, content: Any) -> Path:
    """The path of a new file in the folder of `path`, with `content` and on the disk; to be renamed or linked to it.

    Its name is no other writer's: workers in containers that share the lake have the same process ids.
    """
    temporary = path.with_name(f".{path.name}.{token_hex(8)}")
    with temporary.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary
