"""The report page is complete for a full story, honest about a broken promise, and needs no network."""

import re
from datetime import date, timedelta
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any

import pytest

from whiteboard.report import write_report
from whiteboard.verdicts import figures, verdicts

FIRST, CHANGED, SEEN, CURED = date(2026, 2, 24), date(2026, 3, 3), date(2026, 3, 4), date(2026, 3, 9)


def _day(number: int, chance: Random) -> dict[str, Any]:
    day = FIRST + timedelta(days=number)
    changed, cured = day >= CHANGED, day > CURED
    quality = 0.78 if not changed else 0.66 if cured else 0.33
    decisions = chance.randint(900, 1120)
    review, decline = chance.randint(14, 26), chance.randint(3, 9) + (6 if cured else 0)
    return {
        "day": day.isoformat(),
        "decisions": decisions,
        "average_precision": round(min(1, quality + chance.gauss(0, 0.06)), 4) if number != 4 else None,
        "card_precision_at_100": round(0.02 + 0.06 * quality + chance.gauss(0, 0.004), 4),
        "random_average_precision": round(0.0085 + chance.gauss(0, 0.001), 4),
        "card_precision_ceiling": round(0.091 + chance.gauss(0, 0.006), 4),
        "drift_share": round(max(0, (0.34 if changed and not cured else 0.05) + chance.gauss(0, 0.03)), 3),
        "drift_limit": 0.15,
        "p50_ms": round(2.6 + chance.gauss(0, 0.15), 2),
        "p95_ms": round(4.9 + chance.gauss(0, 0.4), 2),
        "p99_ms": round(7.8 + abs(chance.gauss(0, 1.2)), 2),
        "approve": decisions - review - decline,
        "review": review,
        "decline": decline,
    }


def _gate(name: str, passed: bool, reason: str) -> dict[str, Any]:
    return {"name": name, "passed": passed, "reason": reason, "figures": {}}


def _model(version: str, why: str, better: dict[str, Any]) -> dict[str, Any]:
    gates = [
        better,
        _gate("calibrated", True, "calibration error 0.0041, at most 0.0200"),
        _gate("cheaper", True, "costs 412 per 1,000 payments, at most 1,180; approving everything costs 1,180"),
        _gate("parity", True, "0 decisions differ from their recomputation, at most 0"),
        _gate("latency", True, "one prediction takes 0.021 ms, 99th percentile 0.060 ms, at most 1"),
        _gate("segments", True, "6 segments compared, none much worse; weakest: weekend with 0.704"),
    ]
    return {"version": version, "why": why, "gates": gates, "promoted": better["passed"], "reason": better["reason"]}


@pytest.fixture
def story() -> dict[str, Any]:
    """A run as `whiteboard demo` tells it."""
    chance = Random(7)
    days = [_day(i, chance) for i in range(20)]
    first = _gate(
        "better", True, "average precision 0.741, 88 times that of a random ranking (0.008), at least 5 times"
    )
    worse = _gate(
        "better",
        False,
        "average precision 0.402 against 0.389 of version 1; better with probability 0.61, at least 0.8",
    )
    cure = _gate(
        "better", True, "average precision 0.688 against 0.341 of version 1; better with probability 1.00, at least 0.8"
    )
    return {
        "fraud": {
            "events": {"produced": 123_484, "in_lake": 123_444, "dead_lettered": 40},
            "decisions": sum(d["decisions"] for d in days),
            "failed_requests": 0,
            "parity": {"compared": sum(d["decisions"] for d in days), "mismatched": 0, "stale": 312},
            "latency_ms": {"p50": 2.61, "p95": 4.93, "p99": 8.42},
            "quality": {
                phase: {
                    "average_precision": ap,
                    "card_precision_at_100": cp,
                    "random_average_precision": 0.0085,
                    "card_precision_ceiling": 0.091,
                    "frauds": frauds,
                    "decisions": n,
                }
                for phase, ap, cp, frauds, n in (
                    ("before", 0.7812, 0.0741, 71, 7012),
                    ("during", 0.3344, 0.0582, 66, 6870),
                    ("after", 0.6613, 0.0702, 88, 6090),
                )
            },
            "drift": {"happened_day": CHANGED.isoformat(), "detected_day": SEEN.isoformat(), "false_alarms": 0},
            "models": [
                _model("1", "first champion", first),
                _model("2", "drift alert", worse),
                _model("3", "drift alert, four more days of labels", cure),
            ],
            "stream": {"events_per_s": 6_120},
            "seconds": {
                "total": 224.0,
                "start": 18.2,
                "ingest": 31.5,
                "train": 26.1,
                "live": 121.4,
                "wind_down": 21.0,
                "report": 5.8,
            },
            "series": {
                "days": days,
                "events": [
                    {"day": FIRST.isoformat(), "kind": "promoted", "label": "version 1, the first champion, serves"},
                    {
                        "day": CHANGED.isoformat(),
                        "kind": "pattern_changed",
                        "label": "frauds at other amounts, hours and terminals",
                    },
                    {
                        "day": SEEN.isoformat(),
                        "kind": "drift_detected",
                        "label": "7 of 21 features drifted, 0.33 against a limit of 0.15",
                    },
                    {
                        "day": (CURED - timedelta(days=1)).isoformat(),
                        "kind": "retrained",
                        "label": "version 2, refused: not better beyond noise",
                    },
                    {"day": CURED.isoformat(), "kind": "retrained", "label": "version 3 on 41,220 labelled payments"},
                    {
                        "day": CURED.isoformat(),
                        "kind": "promoted",
                        "label": "version 3 passed every gate; swapped under traffic",
                    },
                ],
            },
        },
        "artefacts": [
            {"label": "Drift report of 4 March", "path": "../monitor/drift-2026-03-04.html"},
            {"label": "Precision-recall curve of version 3", "path": "plots/fraud-3/precision_recall.png"},
            {"label": "Event lake", "path": "../lake"},
            {"label": "MLflow runs and models", "path": "../mlflow"},
        ],
        "command": "whiteboard demo --seed 7",
    }


class _Page(HTMLParser):
    """Collects the tags that are open, what is linked, and the text."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v for k, v in attrs if k in ("href", "src") and v]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [v for k, v in attrs if k in ("href", "src") and v]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_says_every_verdict_and_every_reason(tmp_path: Path, story: dict[str, Any]) -> None:
    page = _Page(write_report(tmp_path / "report", story))
    assert page.open == []
    for text in (
        "Every promise was kept", "features differ", "v1 → v3", "1 day", "6,120 events/s", "p99 8.4 ms", "0.781",
        "not better beyond noise", "better with probability 0.61, at least 0.8", "whiteboard demo --seed 7",
    ):  # fmt: skip
        assert text in page.text.partition("results.json")[0], text  # not only in the JSON at the end


def test_the_page_links_the_artefacts_and_nothing_on_the_network(tmp_path: Path, story: dict[str, Any]) -> None:
    path = write_report(tmp_path, story)
    assert [*(a["path"] for a in story["artefacts"]), "results.json"] == _Page(path).links[1:]
    assert not re.findall(r"(?:https?:)?//[^\s*]|@import|url\((?!#)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"events": {"produced": 10, "in_lake": 8, "dead_lettered": 1}}, "events lost: 1"),
        ({"parity": {"compared": 99_999, "mismatched": 2, "stale": 0}}, "features differ: 2"),
        ({"parity": {"compared": 10, "mismatched": 0, "stale": 0}}, "features differ: 0"),
        ({"failed_requests": 3}, "requests failed: 3"),
        ({"drift": {"happened_day": "2026-03-03", "detected_day": None, "false_alarms": 0}}, "drift: not seen"),
    ],
)
def test_a_broken_promise_heads_the_page(
    tmp_path: Path, story: dict[str, Any], broken: dict[str, Any], said: str
) -> None:
    story["fraud"] |= broken
    text = _Page(write_report(tmp_path, story)).text
    assert f"A promise was broken. {said}" in text
    assert "Every promise was kept" not in text


def test_a_story_that_ended_early_still_makes_a_page(tmp_path: Path) -> None:
    page = _Page(write_report(tmp_path, {"fraud": {"events": {"produced": 5, "in_lake": 5, "dead_lettered": 0}}}))
    assert page.open == []
    assert "events lost" in page.text


def test_text_of_a_story_cannot_become_markup(tmp_path: Path, story: dict[str, Any]) -> None:
    story["command"] = "<script>alert(1)</script>"
    story["fraud"]["series"]["events"][0]["label"] = "<img src=x>"
    source = write_report(tmp_path, story).read_text(encoding="utf-8")
    assert "<script" not in source
    assert "<img" not in source


def test_every_figure_of_the_picture_is_given_by_a_full_story(story: dict[str, Any]) -> None:
    assert [box for box, figure in figures(story["fraud"]).items() if not figure] == []


def test_verdicts_come_only_from_what_was_measured() -> None:
    assert verdicts({}) == []


def test_a_version_that_was_not_judged_when_the_run_ended_says_so(tmp_path: Path, story: dict[str, Any]) -> None:
    reason = "not judged yet when the run ended"
    story["fraud"]["models"][2] = {"version": "3", "why": "drift alert", "promoted": False, "reason": reason}
    assert reason in write_report(tmp_path, story).read_text()
