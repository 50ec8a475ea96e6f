"""The queries of dashboards, rules and alerts, taken apart into the metrics and labels that they use.

uses('sum by (topic) (rate(whiteboard_stream_events_total{topic=~"fraud.*"}[5m]))')
[Use(metric="whiteboard_stream_events_total", labels={"topic"}, matchers=(("topic", "=~", "fraud.*"),))]
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
PROMETHEUS = ROOT / "infra" / "prometheus"
GRAFANA = ROOT / "infra" / "grafana"
DASHBOARDS = sorted((GRAFANA / "dashboards").glob("*.json"))

VARIABLES = {"$__rate_interval": "1m", "$system": ".*", "$instance": ".*"}  # what Grafana puts in

_STRING = r'"(?:[^"\\]|\\.)*"'
_SELECTOR = re.compile(rf"\b(?P<name>[a-zA-Z_:][\w:]*)(?:\{{(?P<matchers>(?:[^}}\"]|{_STRING})*)\}})?(?![\w:]|\s*\()")
_MATCHER = re.compile(rf"(\w+)\s*(=~|!~|!=|=)\s*({_STRING})")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@dataclass(frozen=True)
class Query:
    """One expression, and where it stands."""

    where: str
    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Use:
    """A metric in an expression, with the labels asked of it there, by matchers and groupings."""

    metric: str
    labels: frozenset[str]
    matchers: tuple[tuple[str, str, str], ...] = ()


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """The panels of a dashboard that show something: rows left out."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    """Every recording rule and alert."""
    files = sorted((PROMETHEUS / "rules").glob("*.yml"))
    return [rule for file in files for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for rule in rules() if "alert" in rule]


def queries() -> Iterator[Query]:
    """Every expression of every dashboard and rule, Grafana's variables replaced."""
    for path in DASHBOARDS:
        board = json.loads(path.read_text())
        for panel in panels(board):
            for target in panel["targets"]:
                yield Query(f"{path.name}: {panel['title']}", _plain(target["expr"]), target.get("legendFormat", ""))
        for note in board["annotations"]["list"]:
            yield Query(f"{path.name}: {note['name']}", _plain(note["target"]["expr"]), note["titleFormat"])
        for variable in board["templating"]["list"]:
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            yield Query(f"{path.name}: ${variable['name']}", f"count by ({label}) ({metric})")
    for rule in rules():
        yield Query(f"rule {rule.get('record') or rule['alert']}", rule["expr"])


def uses(expr: str) -> list[Use]:
    """The metrics of an expression; a grouping counts for all of them."""
    grouped = {label.strip() for labels in _GROUPING.findall(expr) for label in labels.split(",") if label.strip()}
    bare = _GROUPING.sub(" ", expr)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    found = []
    for match in _SELECTOR.finditer(bare):
        if match["name"].lower() in _KEYWORDS or re.fullmatch(r"\d.*", match["name"]):
            continue
        matchers = tuple((name, op, json.loads(value)) for name, op, value in _MATCHER.findall(match["matchers"] or ""))
        found.append(Use(match["name"], frozenset(grouped | {name for name, _, _ in matchers}), matchers))
    return found


def _plain(expr: str) -> str:
    for name, value in VARIABLES.items():
        expr = expr.replace(name, value)
    return expr
