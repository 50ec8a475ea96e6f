"""The report of a run: one self-contained page, `report/index.html`, that needs no network and no server.

    path = write_report(Path(".whiteboard/report"), story)

`story` is what the run measured (it also lies beside the page as results.json), by system, with the days for the plots:

    {"command": "whiteboard demo --seed 7", "artefacts": [{"label": "MLflow runs", "path": "../mlflow/mlflow.db"}],
     "fraud": {"events": {"produced": 101540, "in_lake": 101500, "dead_lettered": 40}, "decisions": 9120, …,
               "series": {"days": [{"day": "2026-10-03", "decisions": 480, "average_precision": 0.71, …}],
                          "events": [{"day": "2026-10-09", "kind": "pattern_changed", "label": "new amounts, hours"}]}}}

What is missing in a story is left out of the page. A system comes into the page by its row in SYSTEMS.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from whiteboard.timeplot import Curve, Mark, bars, lines, short

TEMPLATES = Path(__file__).parent / "templates"

Section = Mapping[str, Any]

_TONES = {"pattern_changed": "amber", "drift_detected": "red", "retrained": "grey", "promoted": "green"}
_KINDS = {
    "pattern_changed": "the world changed",
    "drift_detected": "drift detected",
    "retrained": "retrained",
    "promoted": "new champion",
}


@dataclass(frozen=True)
class Panel:
    """One plot over the days: its heading, how to read it, and the columns of `series.days` that it draws."""

    title: str
    note: str
    curves: tuple[Curve, ...]
    kind: str = "lines"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class System:
    """How the page shows one system. `quality` names its metrics; `picture` is a template of the architecture."""

    title: str
    picture: str
    quality: Mapping[str, str]
    panels: tuple[Panel, ...]


LATENCY = Panel(
    "Latency",
    "what the client waited for one answer",
    (Curve("p99_ms", "p99", "red"), Curve("p95_ms", "p95", "amber"), Curve("p50_ms", "p50", "blue")),
    options={"unit": " ms"},
)
DRIFT = Panel(
    "Drift",
    "share of features whose distribution left the champion's reference",
    (Curve("drift_share", "drifted", "violet"),),
    options={"decimals": 2, "limit": Curve("drift_limit", "limit", "limit")},
)
SYSTEMS = {
    "fraud": System(
        title="Fraud detection",
        picture="picture_fraud.svg",
        quality={"average_precision": "Average precision", "card_precision_at_100": "Card Precision@100"},
        panels=(
            Panel(
                "Quality",
                "against the labels as they matured; higher is better",
                (
                    Curve("average_precision", "average precision", "blue"),
                    Curve("card_precision_at_100", "card P@100", "green"),
                ),
                options={"decimals": 3, "top": 1.0},
            ),
            DRIFT,
            LATENCY,
            Panel(
                "Decisions",
                "a day, by action; each row has its own scale",
                (
                    Curve("approve", "approved", "grey"),
                    Curve("review", "reviewed", "amber"),
                    Curve("decline", "declined", "red"),
                ),
                kind="bars",
            ),
        ),
    ),
}


@dataclass(frozen=True)
class Verdict:
    """One promise and how it was kept: `good` is None where there is nothing to keep."""

    label: str
    value: str
    detail: str
    good: bool | None = None


def write_report(report_dir: Path, story: Mapping[str, Any]) -> Path:
    """Writes `index.html` into `report_dir` (made if need be) and returns its path.

    Paths of artefacts are taken as relative to the page.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    sections = [_section(name, story[name]) for name in SYSTEMS if name in story]
    page = environment.get_template("report.html").render(
        sections=sections,
        good=all(v.good is not False for s in sections for v in s["verdicts"]),
        seconds=sum(s["story"].get("seconds", {}).get("total", 0) for s in sections),
        command=story.get("command", "whiteboard demo"),
        artefacts=story.get("artefacts", []),
        results=json.dumps(_without_series(story), indent=2),
    )
    report_dir.mkdir(parents=True, exist_ok=True)
    path = report_dir / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def number(value: float | None, decimals: int = 0) -> str:
    """A number as people read it; a dash for None.

    >>> number(1754155), number(0.7526, 3), number(None)
    ('1,754,155', '0.753', '–')
    """
    return "–" if value is None else f"{value:,.{decimals}f}"


def _without_series(story: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {k: v for k, v in value.items() if k != "series"} if name in SYSTEMS else value
        for name, value in story.items()
    }


def _section(name: str, story: Section) -> dict[str, Any]:
    """What the template needs of one system."""
    system = SYSTEMS[name]
    series = story.get("series", {})
    days: Sequence[Mapping[str, Any]] = series.get("days", [])
    happened = sorted(series.get("events", []), key=lambda e: e["day"])
    marks = [Mark(date.fromisoformat(e["day"]), i, _TONES[e["kind"]]) for i, e in enumerate(happened, 1)]
    panels = [p for p in system.panels if any(d.get(c.key) is not None for d in days for c in p.curves)]
    return {
        "name": name,
        "title": system.title,
        "picture": system.picture,
        "story": story,
        "verdicts": verdicts(story),
        "happened": [
            {"mark": m, "day": short(m.day), "kind": _KINDS[e["kind"]], "label": e["label"]}
            for m, e in zip(marks, happened, strict=True)
        ],
        "panels": [{"title": p.title, "note": p.note, "svg": _draw(p, days, marks, _band(happened))} for p in panels],
        "quality": {key: label for key, label in system.quality.items() if _measured(story, key)},
        "champion": next((m for m in reversed(story.get("models", [])) if m.get("promoted")), None),
        "stages": {k: v for k, v in story.get("seconds", {}).items() if k != "total"},
        "days": days,
        "columns": list(dict.fromkeys(k for d in days for k in d)),
    }


def _draw(panel: Panel, days: Sequence[Mapping[str, Any]], marks: Sequence[Mark], band: tuple[date, date] | None) -> str:
    draw = bars if panel.kind == "bars" else lines
    return draw(days, panel.curves, marks, band=band, **panel.options)


def _band(happened: Sequence[Mapping[str, str]]) -> tuple[date, date] | None:
    """From the day the world changed to the day a champion was promoted that knows it."""
    changed = next((e["day"] for e in happened if e["kind"] == "pattern_changed"), None)
    cured = next((e["day"] for e in happened if changed and e["kind"] == "promoted" and e["day"] > changed), None)
    return (date.fromisoformat(changed), date.fromisoformat(cured)) if changed and cured else None


def _measured(story: Section, metric: str) -> bool:
    return any(phase.get(metric) is not None for phase in story.get("quality", {}).values())


def verdicts(story: Section) -> list[Verdict]:
    """The promises of a run, in the order of the page: nothing lost, nothing different, nothing failed, and the loop."""
    found = []
    if events := story.get("events"):
        lost = events["produced"] - events["in_lake"] - events["dead_lettered"]
        detail = f"of {number(events['produced'])}; {number(events['dead_lettered'])} malformed, kept as dead letters"
        found.append(Verdict("events lost", number(lost), detail, lost == 0))
    if parity := story.get("parity"):
        detail = f"of {number(parity['compared'])} decisions recomputed offline; {number(parity['stale'])} read a stale row"
        good = parity["mismatched"] == 0 and parity["compared"] > 0
        found.append(Verdict("parity mismatches", number(parity["mismatched"]), detail, good))
    if "failed_requests" in story:
        failed = story["failed_requests"]
        found.append(Verdict("failed requests", number(failed), f"of {number(story.get('decisions'))}", failed == 0))
    if drift := story.get("drift"):
        found.append(_drift_verdict(drift))
    if models := story.get("models"):
        promoted = [m["version"] for m in models if m.get("promoted")]
        detail = f"{len(models)} trained, {len(models) - len(promoted)} refused by a gate"
        found.append(Verdict("champion", " → ".join(f"v{v}" for v in promoted) or "none", detail, bool(promoted)))
    if latency := story.get("latency_ms"):
        detail = f"p50 {latency['p50']:.1f} ms, p95 {latency['p95']:.1f} ms"
        found.append(Verdict("latency p99", f"{latency['p99']:.1f} ms", detail))
    return found


def _drift_verdict(drift: Section) -> Verdict:
    alarms = f"{drift['false_alarms']} false alarm{'' if drift['false_alarms'] == 1 else 's'} before"
    if drift["detected_day"] is None:
        return Verdict("drift", "not seen", f"the world changed on {drift['happened_day']}; {alarms}", False)
    happened, detected = (date.fromisoformat(drift[k]) for k in ("happened_day", "detected_day"))
    delay = (detected - happened).days
    value = "same day" if delay == 0 else f"{delay} day{'' if delay == 1 else 's'}"
    return Verdict("until drift was seen", value, f"{short(happened)} → {short(detected)}; {alarms}", delay >= 0)
