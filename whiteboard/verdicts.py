"""What a run promised and whether it kept it, and the one figure that stands on each box of the report's picture.

    verdicts(story)   [Verdict(label="events lost", value="0", detail="of 101,540; …", good=True), …]
    figures(story)    {"stream": "6,120 events/s", "lake": "101,500 rows, 0 lost", …}

A verdict whose part is missing in the story is left out; a figure that cannot be given is empty.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from whiteboard.timeplot import short

Section = Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What a run was to show and whether it did; `good` is None where a figure is only reported.

    A `promise` must be kept by every run, whatever its world is like.
    """

    label: str
    value: str
    detail: str
    good: bool | None = None
    promise: bool = False


def number(value: float | None, decimals: int = 0) -> str:
    """A number as people read it; a dash for None.

    >>> number(1754155), number(0.7526, 3), number(None)
    ('1,754,155', '0.753', '–')
    """
    return "–" if value is None else f"{value:,.{decimals}f}"


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "day"), counted(1200, "day")
    ('1 day', '1,200 days')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def lost(events: Mapping[str, int]) -> int:
    """Events that went into the log and came out neither in the lake nor among the dead letters; 0 is the promise."""
    return events["produced"] - events["in_lake"] - events["dead_lettered"]


def verdicts(story: Section) -> list[Verdict]:
    """In the order of the page: nothing lost, nothing different, nothing failed; then the loop and its speed."""
    found = []
    if events := story.get("events"):
        detail = (
            f"of {number(events['produced'])}; {number(events['dead_lettered'])} malformed ones kept as dead letters"
        )
        found.append(Verdict("events lost", number(lost(events)), detail, lost(events) == 0, promise=True))
    if parity := story.get("parity"):
        stale = f"{number(parity['stale'])} had read a stale row"
        detail = f"of {counted(parity['compared'], 'decision')} recomputed offline; {stale}"
        looked_at = parity["compared"] + parity.get("degraded", 0)
        good = parity["mismatched"] == 0 and looked_at >= story.get("decisions", 1)  # all, not only some
        found.append(Verdict("features differ", number(parity["mismatched"]), detail, good, promise=True))
    if "failed_requests" in story:
        failed = story["failed_requests"]
        detail = "; ".join([f"of {number(story.get('decisions'))}", *story.get("failures", [])[:2]])
        found.append(Verdict("requests failed", number(failed), detail, failed == 0, promise=True))
    if drift := story.get("drift"):
        found.append(_drift(drift))
    if models := story.get("models"):
        promoted = _promoted(story)
        detail = f"{counted(len(models), 'version')} trained, {len(models) - len(promoted)} refused by the gates"
        found.append(Verdict("champion", " → ".join(f"v{v}" for v in promoted) or "none", detail, bool(promoted)))
    if latency := story.get("latency_ms"):
        detail = f"p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f} ms"
        found.append(Verdict("p99 latency", f"{latency['p99']:.1f} ms", detail))
    return found


def _drift(drift: Section) -> Verdict:
    alarms = counted(drift["false_alarms"], "false alarm")
    if drift["detected_day"] is None:
        return Verdict("drift", "not seen", f"though the world changed on {drift['happened_day']}; {alarms}", False)
    happened, detected = (date.fromisoformat(drift[k]) for k in ("happened_day", "detected_day"))
    delay = (detected - happened).days
    value = "0 days" if delay == 0 else counted(delay, "day")
    return Verdict("drift seen after", value, f"{short(happened)} → {short(detected)}; {alarms}", delay >= 0)


def _drift_in_short(drift: Section) -> str:
    if drift["detected_day"] is None:
        return "drift not seen"
    return _drift(drift).detail.partition(";")[0]


def _promoted(story: Section) -> list[str]:
    return [m["version"] for m in story.get("models", []) if m.get("promoted")]


def figures(story: Section) -> dict[str, str]:
    """For each box of the picture the figure of this run, "" where there is none."""
    events, parity, latency = story.get("events"), story.get("parity"), story.get("latency_ms")
    drift, stream, models = story.get("drift"), story.get("stream"), story.get("models", [])
    promoted, failed = _promoted(story), story.get("failed_requests")
    return {
        "client": "" if failed is None else f"{number(failed)} failed",
        "service": f"{number(story.get('decisions'))} · p99 {latency['p99']:.1f} ms" if latency else "",
        "feast": f"{number(parity['mismatched'])} of {number(parity['compared'])} differ" if parity else "",
        "model": f"champion v{promoted[-1]}" if promoted else "",
        "kafka": f"{number(events['produced'])} events" if events else "",
        "stream": f"{number(stream['events_per_s'])} events/s" if stream else "",
        "lake": f"{number(events['in_lake'])} · {number(lost(events))} lost" if events else "",
        "monitor": _drift_in_short(drift) if drift else "",
        "pipelines": f"{len(models)} trained, {len(promoted)} promoted" if models else "",
        "registry": counted(len(models), "version") if models else "",
    }
