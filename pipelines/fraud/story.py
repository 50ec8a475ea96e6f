"""What the demo's decisions were worth: quality by period and by day, from the lake and the world's truth."""

from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from whiteboard.demo import percentiles
from whiteboard.fraud.events import DECISIONS, SYSTEM, Decision
from whiteboard.fraud.metrics import Scored, average_precision, card_precision, dense
from whiteboard.lake import Lake, connect
from whiteboard.settings import Settings


def decided(settings: Settings) -> pd.DataFrame:
    """Every decision in the lake beside the world's truth, in order of event_timestamp, with its event `day`."""
    relation = Lake(settings.lake_dir).relation(DECISIONS, Decision)
    columns = "transaction_id, event_timestamp, customer_id, decision, fraud_probability, model_version, degraded"
    with connect() as connection:
        frame = connection.sql(f"SELECT {columns} FROM {relation} ORDER BY event_timestamp").df()
    truth = pd.read_parquet(settings.home / "world" / SYSTEM / "truth.parquet", columns=["transaction_id", "scenario"])
    joined: pd.DataFrame = frame.merge(truth, on="transaction_id", validate="one_to_one")
    return joined.assign(is_fraud=joined["scenario"] > 0, day=joined["event_timestamp"].dt.date)


def quality(frame: pd.DataFrame) -> dict[str, float | None]:
    """Average precision and Card Precision@100 of decisions against the truth; None where there is no fraud."""
    if not frame["is_fraud"].any():
        return {"average_precision": None, "card_precision_at_100": None, "frauds": 0, "decisions": len(frame)}
    fraud = frame["is_fraud"].to_numpy(dtype=float)
    scored = Scored(
        day=dense(frame["event_timestamp"].dt.floor("D")),
        card=dense(frame["customer_id"]),
        is_fraud=fraud,
        amount=np.zeros(len(frame)),
        risk=frame["fraud_probability"].to_numpy(),
    )
    return {
        "average_precision": round(average_precision(fraud, scored.risk), 4),
        "card_precision_at_100": round(card_precision(scored), 4),
        "random_average_precision": round(float(fraud.mean()), 4),
        "card_precision_ceiling": round(card_precision(replace(scored, risk=fraud)), 4),
        "frauds": int(fraud.sum()),
        "decisions": len(frame),
    }


def periods(frame: pd.DataFrame, changed: date, promoted_day: str | None) -> dict[str, dict[str, float | None]]:
    """Quality before the pattern changed, while the old model met it, and after the new one took over."""
    swapped = date.fromisoformat(promoted_day) if promoted_day else date.max
    return {
        "before": quality(frame[frame["day"] < changed]),
        "during": quality(frame[(frame["day"] >= changed) & (frame["day"] <= swapped)]),
        "after": quality(frame[frame["day"] > swapped]),
    }


def days(frame: pd.DataFrame, windows: list[dict[str, Any]], latencies: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row a live day for the report's plots."""
    seen = {window["day"]: window for window in windows}
    rows = []
    for day, part in frame.groupby("day"):
        name = str(day)
        judged, measured = seen.get(name), quality(part)
        rows.append(
            {
                "day": name,
                "decisions": len(part),
                "average_precision": measured["average_precision"],
                "card_precision_at_100": measured["card_precision_at_100"],
                "random_average_precision": measured.get("random_average_precision"),
                "card_precision_ceiling": measured.get("card_precision_ceiling"),
                "drift_share": judged["drift"]["share"] if judged else None,
                "drift_limit": judged["drift"]["limit"] if judged else None,
                **{f"{p}_ms": value for p, value in percentiles(latencies.get(name, [])).items()},
                **{action: int((part["decision"] == action).sum()) for action in ("approve", "review", "decline")},
            }
        )
    return rows


def rows(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Quality by period, as rows of the table in the terminal."""
    out = []
    for period, values in results["quality"].items():
        ap, cp = values["average_precision"], values["card_precision_at_100"]
        text = "no frauds" if ap is None else f"average precision {ap:.3f}, Card Precision@100 {cp:.3f}"
        out.append((f"quality {period}", f"{text} ({values['frauds']} frauds in {values['decisions']:,} decisions)"))
    return out
