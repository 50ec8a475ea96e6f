"""What a load test leaves behind: a JSON file for programs and one self-contained page for people, beside each other.

paths = write(result, None, Path(".whiteboard/load"), name="fraud-20261126T114500", command="whiteboard load …")
paths.json      {"summary": {"p99_ms": 7.2, …}, "kinds": …, "percentiles": …, "seconds": …, "sweep": …, …}
paths.page
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from whiteboard.load.chart import Line, percentile_curve, percentile_points, rate_curve, time_curve
from whiteboard.load.result import MEANINGS, LoadResult, Records, Summary
from whiteboard.load.sweep import Budget, Sweep

TEMPLATES = Path(__file__).parents[1] / "templates"
TONES = ("blue", "violet", "amber", "green")


class Paths(NamedTuple):
    """Where the results lie."""

    json: Path
    page: Path


def write(
    result: LoadResult,
    found: Sweep | None,
    directory: Path,
    *,
    name: str,
    command: str,
    budget: Budget | None = None,
    facts: Mapping[str, str] | None = None,
) -> Paths:
    """Writes NAME.json and NAME.html; `result` is what the page tells most of: of a sweep, its knee."""
    directory.mkdir(parents=True, exist_ok=True)
    budget = budget or Budget()
    numbers = document(result, found, command=command, budget=budget, facts=facts or {})
    paths = Paths(directory / f"{name}.json", directory / f"{name}.html")
    paths.json.write_text(json.dumps(numbers, indent=2), encoding="utf-8")
    paths.page.write_text(page(result, found, numbers, budget, paths.json.name), encoding="utf-8")
    return paths


def document(
    result: LoadResult, found: Sweep | None, *, command: str, budget: Budget, facts: Mapping[str, str]
) -> dict[str, Any]:
    """Every figure, for programs; what is not known (the percentiles of nothing) is null."""
    plan = result.plan
    numbers: dict[str, Any] = _known(
        {
            "command": command,
            "url": plan.url,
            "began_at": datetime.fromtimestamp(result.began_at, UTC).isoformat(timespec="milliseconds"),
            "interrupted": result.interrupted or bool(found and found.interrupted),
            "budget": asdict(budget),
            "broken": budget.broken(result.summary()),
            "plan": {
                "rate": plan.rate,
                "duration_s": plan.duration_s,
                "warm_up_s": plan.warm_up_s,
                "arrivals": plan.arrivals,
                "connections": plan.connections,
                "processes": plan.processes,
                "timeout_s": plan.timeout_s,
                "seed": plan.seed,
            },
            "facts": dict(facts),
            "measured_s": result.measured_s,
            "summary": summary_dict(result.summary()),
            "kinds": {kind: summary_dict(result.summary(kind)) for kind in result.kinds},
            "generator": {
                "cpu_us_per_request": 1e6 * result.cpu_s / max(len(result.records), 1),
                "lag_p99_ms": result.lag_ms,
            },
            "machine": {
                "slow_phases": [{"since_s": since, "until_s": until} for since, until in result.slow],
                "slow_share": result.slow_share,
                "undisturbed": summary_dict(Summary.of(result.undisturbed(), result.measured_s)),
            },
            "percentiles": [
                {"percentile": 100 * (1 - 10**-nines), "latency_ms": ms}
                for nines, ms in percentile_points(_waits_ms(result.measured()))[::8]
            ],
            "seconds": by_second(result),
            "sweep": None
            if found is None
            else {
                "knee": found.knee,
                "steps": [
                    {"rate": s.rate, "broken": s.broken, "summary": summary_dict(s.summary)} for s in found.steps
                ],
            },
        }
    )
    return numbers


def summary_dict(summary: Summary) -> dict[str, Any]:
    """The summary with what follows from it."""
    return asdict(summary) | {"failed": summary.failed, "error_share": summary.error_share}


def by_second(result: LoadResult) -> list[dict[str, Any]]:
    """The figures of the requests that were due in each second from the start, the warm-up's too."""
    scheduled = result.records.where(result.records.kinds == result.kinds[0])
    rows = []
    for second in range(int(np.ceil(result.elapsed_s))):
        some = Summary.of(scheduled.where((scheduled.due_s >= second) & (scheduled.due_s < second + 1)), 1.0)
        found = {name: getattr(some, name) for name in ("requests", "p50_ms", "p99_ms", "max_ms", "failed")}
        rows.append({"second": second, **found})
    return rows


def page(result: LoadResult, found: Sweep | None, numbers: Mapping[str, Any], budget: Budget, json_name: str) -> str:
    """The page, as HTML that needs no network."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ms"] = milliseconds
    kinds = {kind: result.summary(kind) for kind in result.kinds}
    return environment.get_template("load.html").render(
        n=numbers,
        summary=result.summary(),
        kinds=kinds,
        errors=[
            (kind, label, count, MEANINGS.get(label, ""))
            for kind, summary in kinds.items()
            for label, count in summary.errors.items()
        ],
        sweep=found,
        failed_rates={step.rate for step in found.failed} if found else set(),
        rates=_rates(found) if found else "",
        percentiles=_percentiles(result, budget),
        seconds=_seconds(result),
        machine=machine(result),
        json_name=json_name,
    )


def machine(result: LoadResult) -> str:
    """What the machine did meanwhile, in a sentence."""
    times = sum(until > result.plan.warm_up_s and since < result.elapsed_s for since, until in result.slow)
    if not times:
        return "the machine ran at its usual speed throughout"
    calm = Summary.of(result.undisturbed(), result.measured_s)
    share = calm.requests / max(len(result.measured()), 1)
    return (
        f"the machine ran at less than a third of its usual speed {times} times, {result.slow_share:.1%} of the time; "
        f"the {share:.1%} of requests that met none of it: p50 {milliseconds(calm.p50_ms)}, "
        f"p99 {milliseconds(calm.p99_ms)}"
    )


def milliseconds(value: float) -> str:
    """A latency as people read it.

    >>> milliseconds(0.8512), milliseconds(12.34), milliseconds(1234.5), milliseconds(float("nan"))
    ('0.85 ms', '12.3 ms', '1.23 s', '–')
    """
    if not isfinite(value):
        return "–"
    if value >= 1000:
        return f"{value / 1000:.2f} s"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} ms"


def _percentiles(result: LoadResult, budget: Budget) -> str:
    lines = [
        Line(kind, tone, percentile_points(_waits_ms(result.measured(kind))))
        for kind, tone in zip(result.kinds, TONES, strict=False)
    ]
    return percentile_curve(lines, budget.p99_ms)


def _rates(found: Sweep) -> str:
    best: dict[float, Summary] = {}
    for step in found.steps:  # of a rate that was tried twice, the better time
        if step.rate not in best or step.summary.p99_ms < best[step.rate].p99_ms:
            best[step.rate] = step.summary
    rates = sorted(best)
    lines = [
        Line(name, tone, [(rate, getattr(best[rate], key)) for rate in rates], dots=True)
        for name, tone, key in (("p50", "blue", "p50_ms"), ("p90", "amber", "p90_ms"), ("p99", "red", "p99_ms"))
    ]
    return rate_curve(lines, found.budget.p99_ms, found.knee)


def _seconds(result: LoadResult) -> str:
    rows = by_second(result)
    lines = [
        Line(name, tone, [(row["second"] + 0.5, row[key]) for row in rows])
        for name, tone, key in (("max", "grey", "max_ms"), ("p99", "red", "p99_ms"), ("p50", "blue", "p50_ms"))
    ]
    return time_curve(lines, max(result.elapsed_s, 1.0), result.plan.warm_up_s)


def _waits_ms(records: Records) -> Any:
    return records.latency_s[records.waited] * 1000


def _known(value: Any) -> Any:
    """The same with null for what is no number, which JSON does not have."""
    if isinstance(value, dict):
        return {name: _known(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
