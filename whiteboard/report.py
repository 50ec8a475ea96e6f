"""The report of a run: one self-contained page, `report/index.html`, that needs no network and no server.

    path = write_report(Path(".whiteboard/report"), story)

`story` is what the run measured (the page's neighbour results.json), by system, with the days for the plots:

    {"command": "whiteboard demo --seed 7", "artefacts": [{"label": "MLflow runs", "path": "../mlflow/mlflow.db"}],
     "fraud": {"events": {"produced": 101540, "in_lake": 101500, "dead_lettered": 40}, "decisions": 9120, …,
               "series": {"days": [{"day": "2026-10-03", "decisions": 480, "average_precision": 0.71, …}],
                          "events": [{"day": "2026-10-09", "kind": "pattern_changed", "label": "new amounts, hours"}]}}}

What a story lacks is left out of the page. A system comes into the page by its row in SYSTEMS.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from whiteboard.timeplot import Curve, Mark, bars, lines, short
from whiteboard.verdicts import figures, number, verdicts

TEMPLATES = Path(__file__).parent / "templates"

KINDS = {  # of what happened: its words and its tone
    "pattern_changed": ("the world changed", "amber"),
    "drift_detected": ("drift was seen", "red"),
    "retrained": ("retrained", "grey"),
    "promoted": ("new champion", "green"),
    "experiment": ("an experiment ended", "blue"),
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
    """How the page shows one system: the words of its picture, metrics of quality, figures beside them, and plots."""

    title: str
    words: Mapping[str, str]  # of the picture
    quality: Mapping[str, str]
    beside: Mapping[str, str]
    panels: tuple[Panel, ...]


DRIFT = Panel(
    "Drift",
    "share of the features that left the champion's reference sample",
    (Curve("drift_share", "drifted", "violet"),),
    options={"decimals": 2, "limit": Curve("drift_limit", "limit", "limit")},
)
LATENCY = Panel(
    "Latency",
    "what a client waited for an answer",
    (Curve("p99_ms", "p99", "red"), Curve("p95_ms", "p95", "amber"), Curve("p50_ms", "p50", "blue")),
    options={"unit": " ms"},
)
SYSTEMS = {
    "fraud": System(
        title="Fraud detection",
        words={
            "route": "POST /v1/decisions",
            "request": "payment",
            "answer": "decision",
            "service": "Fraud service",
            "steps": "features, model, reasons",
            "model": "calibrated probability",
            "events": "payments, decisions",
            "watched": "decisions, labels",
            "monitor": "drift, skew, live quality",
        },
        quality={"average_precision": "Average precision", "card_precision_at_100": "Card Precision@100"},
        beside={
            "random_average_precision": "average precision of a random ranking",
            "card_precision_ceiling": "Card Precision@100 of a perfect ranking",
            "frauds": "frauds",
            "decisions": "decisions",
        },
        panels=(
            Panel(
                "Average precision",
                "of each day's decisions against the truth; 1 is a perfect ranking",
                (Curve("average_precision", "service", "blue"),),
                options={"decimals": 3, "top": 1.0, "limit": Curve("random_average_precision", "random", "limit")},
            ),
            Panel(
                "Card Precision@100",
                "share of the day's 100 riskiest cards that are compromised",
                (Curve("card_precision_at_100", "service", "green"),),
                options={"decimals": 3, "limit": Curve("card_precision_ceiling", "perfect", "limit")},
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
    "recommendation": System(
        title="Recommendation",
        words={
            "route": "GET /v1/recommendations",
            "request": "user",
            "answer": "list",
            "service": "Recommendation service",
            "steps": "candidates, ranking, list",
            "model": "five sources, LambdaRank",
            "events": "lists, clicks",
            "watched": "lists, clicks",
            "monitor": "drift, skew, clicks",
        },
        quality={"clicks_per_request": "Clicks a request", "ndcg_against_truth": "nDCG@10 against the truth"},
        beside={"requests": "requests"},
        panels=(
            Panel(
                "Clicks a request",
                "what the lists were worth, by the truth about their users",
                (
                    Curve("clicks_per_request", "ranker", "blue"),
                    Curve("popularity", "popularity", "grey"),
                    Curve("newest", "newest first", "red"),
                ),
                options={"decimals": 2},
            ),
            Panel(
                "nDCG@10",
                "of the ranker's lists against the ideal ones of that moment",
                (Curve("ndcg_against_truth", "ranker", "green"),),
                options={"decimals": 2, "top": 1.0},
            ),
            DRIFT,
            LATENCY,
            Panel(
                "Catalogue",
                "share of the items that anybody was shown, and of what was shown the share of the most liked tenth",
                (Curve("coverage", "coverage", "blue"), Curve("popular_share", "popular", "amber")),
                options={"decimals": 2, "top": 1.0},
            ),
        ),
    ),
}


def write_report(report_dir: Path, story: Mapping[str, Any]) -> Path:
    """Writes `index.html` into `report_dir` (made if need be) and returns its path.

    Paths of artefacts are relative to the page. What the story holds is escaped; it cannot become markup.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    sections = [_section(name, story[name]) for name in SYSTEMS if name in story]
    page = environment.get_template("report.html").render(
        sections=sections,
        seconds=sum(s["seconds"] for s in sections),
        command=story.get("command", "whiteboard demo"),
        artefacts=story.get("artefacts", []),
        results=json.dumps(_without_series(story), indent=2),
    )
    report_dir.mkdir(parents=True, exist_ok=True)
    path = report_dir / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _without_series(story: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {k: v for k, v in value.items() if k != "series"} if name in SYSTEMS else value
        for name, value in story.items()
    }


def _section(name: str, story: Mapping[str, Any]) -> dict[str, Any]:
    """What the template needs of one system."""
    system = SYSTEMS[name]
    series = story.get("series", {})
    days: Sequence[Mapping[str, Any]] = series.get("days", [])
    happened = sorted(series.get("events", []), key=lambda e: str(e["day"]))
    marks = [Mark(date.fromisoformat(e["day"]), i, KINDS[e["kind"]][1]) for i, e in enumerate(happened, 1)]
    drawn = [p for p in system.panels if any(d.get(c.key) is not None for d in days for c in p.curves)]
    kept = verdicts(story)
    return {
        "name": name,
        "title": system.title,
        "words": system.words,
        "figures": figures(story),
        "verdicts": kept,
        "broken": [f"{v.label}: {v.value}" for v in kept if v.good is False],
        "kept": [f"{v.value} {v.label}" for v in kept if v.good and v.value == "0"],
        "happened": [
            {"number": m.number, "tone": m.tone, "day": short(m.day), "kind": KINDS[e["kind"]][0], "label": e["label"]}
            for m, e in zip(marks, happened, strict=True)
        ],
        "panels": [{"title": p.title, "note": p.note, "svg": _draw(p, days, marks, happened)} for p in drawn],
        "phases": list(story.get("quality", {})),
        "quality": _quality(system, story.get("quality", {})),
        "models": story.get("models", []),
        "seconds": story.get("seconds", {}).get("total", 0),
        "stages": {k: v for k, v in story.get("seconds", {}).items() if k != "total"},
        "days": days,
        "columns": list(dict.fromkeys(k for d in days for k in d)),
    }


def _draw(
    panel: Panel, days: Sequence[Mapping[str, Any]], marks: Sequence[Mark], happened: Sequence[Mapping[str, str]]
) -> str:
    draw = bars if panel.kind == "bars" else lines
    return draw(days, panel.curves, marks, band=_band(happened), **panel.options)


def _band(happened: Sequence[Mapping[str, str]]) -> tuple[date, date] | None:
    """From the day the world changed to the day a champion was promoted that knows it."""
    changed = next((e["day"] for e in happened if e["kind"] == "pattern_changed"), None)
    cured = next((e["day"] for e in happened if changed and e["kind"] == "promoted" and e["day"] > changed), None)
    return (date.fromisoformat(changed), date.fromisoformat(cured)) if changed and cured else None


def _quality(system: System, phases: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the quality table: each metric with its value in every phase, the lesser ones after the main ones."""
    rows = []
    for names, minor in ((system.quality, False), (system.beside, True)):
        for key, label in names.items():
            values = [phase.get(key) for phase in phases.values()]
            if any(v is not None for v in values):
                cells = [number(v, 0 if isinstance(v, int) else 3) for v in values]
                rows.append({"label": label, "cells": cells, "minor": minor})
    return rows
