"""What the demo's lists were worth: against the world's truth, by policy, by period and by day."""

from collections.abc import Sequence
from datetime import date
from typing import Any

import pandas as pd

from whiteboard.demo import percentiles
from whiteboard.recommendation.audience import Audience
from whiteboard.recommendation.traffic import Served

RANKED = ("ranker", "challenger")


def judged(served: Sequence[Served], audience: Audience, start: date) -> pd.DataFrame:
    """One row a request: day, policy, what the truth says of the list, and what was clicked."""
    rows = []
    for one in served:
        rows.append(
            {
                "day": one.request.event_timestamp.date(),
                "user_id": one.request.user_id,
                "policy": one.answer["arm"] or "ranker",
                "version": one.answer["model_version"],
                "degraded": one.answer["degraded"],
                "clicks": one.clicks,
                "expected_clicks": audience.expected_clicks(one.request, one.item_ids),
                "ndcg": audience.ndcg(one.request, one.item_ids),
            }
        )
    return pd.DataFrame(rows)


def quality(frame: pd.DataFrame) -> dict[str, float | int | None]:
    """The truth about some lists: expected clicks a request and nDCG@10 against the ideal list of that moment."""
    if frame.empty:
        return {"clicks_per_request": None, "ndcg_against_truth": None, "requests": 0}
    return {
        "clicks_per_request": round(float(frame["expected_clicks"].mean()), 4),
        "ndcg_against_truth": round(float(frame["ndcg"].mean()), 4),
        "requests": len(frame),
    }


def periods(frame: pd.DataFrame, changed: date, promoted_day: str | None) -> dict[str, dict[str, Any]]:
    """Popularity; the ranker before tastes shifted, while the old version met that, and after the new one took over."""
    swapped = date.fromisoformat(promoted_day) if promoted_day else date.max
    ranked = frame[frame["policy"].isin(RANKED)]
    return {
        "popularity": quality(frame[frame["policy"] == "popularity"]),
        "before": quality(ranked[ranked["day"] < changed]),
        "during": quality(ranked[(ranked["day"] >= changed) & (ranked["day"] <= swapped)]),
        "after": quality(ranked[ranked["day"] > swapped]),
    }


def days(frame: pd.DataFrame, windows: list[dict[str, Any]], latencies: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row a live day for the report's plots."""
    seen = {window["day"]: window for window in windows}
    rows = []
    for day, part in frame.groupby("day"):
        name = str(day)
        window = seen.get(name)
        by_policy = {policy: quality(part[part["policy"] == policy]) for policy in ("popularity", "newest")}
        ours = quality(part[part["policy"].isin(RANKED)])
        rows.append(
            {
                "day": name,
                "requests": len(part),
                "clicks_per_request": ours["clicks_per_request"],
                "ndcg_against_truth": ours["ndcg_against_truth"],
                "popularity": by_policy["popularity"]["clicks_per_request"],
                "newest": by_policy["newest"]["clicks_per_request"],
                "drift_share": window["drift"]["share"] if window else None,
                "drift_limit": window["drift"]["limit"] if window else None,
                "coverage": window["quality"]["coverage"] if window else None,
                "popular_share": window["quality"]["popular_share"] if window else None,
                **{f"{p}_ms": value for p, value in percentiles(latencies.get(name, [])).items()},
            }
        )
    return rows


def rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Experiments and quality by period, as rows of the table in the terminal."""
    out = [
        (f"experiment {name}", f"{found['verdict']}: {found['reason']}")
        for name, found in results["experiments"].items()
    ]
    for period, values in results["quality"].items():
        if values["requests"]:
            text = f"{values['clicks_per_request']:.2f} clicks a request, nDCG {values['ndcg_against_truth']:.3f}"
            out.append((f"quality {period}", f"{text} against the truth ({values['requests']:,} requests)"))
    if batch := results.get("batch"):
        text = f"{batch['clicks_per_request']:.2f} clicks a request where the online path got {batch['online']:.2f}"
        if batch["off_policy"]:
            told = batch["off_policy"]["estimates"]["dr"]
            text += f", {told['value']:.2f} by the log alone ({told['low']:.2f} to {told['high']:.2f})"
        out.append(("batch", f"{text}; {batch['users']:,} users in {batch['seconds']:.1f} s"))
    return out
