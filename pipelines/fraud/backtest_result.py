"""What a backtest gives: the weeks' reports become one result for programs (JSON) and one table for people.

{"roc_auc": 0.887, "average_precision": 0.759, "card_precision_at_100": 0.332, "train": {"rows": 343603, …},
 "models": {"all_labelled": {…}, "train_window": {…}, "logistic_regression": {…}, "random": {…}, "oracle": {…}}, …}
"""

from typing import TYPE_CHECKING, Any

from pipelines.fraud.protocol import Windows, leak_check
from whiteboard.fraud.metrics import Report, mean_over

if TYPE_CHECKING:
    from rich.table import Table

HEADLINE, TRAIN_WINDOW, LINEAR = MODELS = ("all_labelled", "train_window", "logistic_regression")
RANKING = ("roc_auc", "average_precision", "card_precision_at_100")


def summary(results: list[dict[str, Any]], windows: Windows) -> dict[str, Any]:
    """The result's JSON from those of the weeks."""
    reports = {name: mean_over([week["reports"][name] for week in results]) for name in MODELS}
    headline = reports[HEADLINE]
    train, test = ([week["learnt"][TRAIN_WINDOW] for week in results], [week["test"] for week in results])
    models = {name: _flat(report) | {"learnt_from": results[0]["learnt"][name]} for name, report in reports.items()}
    models |= {
        bound: {m: headline[m][end] for m in RANKING} for bound, end in (("random", "floor"), ("oracle", "ceiling"))
    }
    result = {
        **{metric: headline[metric]["value"] for metric in RANKING},
        "oracle_card_precision_at_100": headline["card_precision_at_100"]["ceiling"],
        "cost_per_1000": headline["cost_per_1000"]["value"],
        "calibration_error": headline["calibration_error"]["value"],
        "intervals": {metric: [values["low"], values["high"]] for metric, values in headline.items()},
        "train": {key: sum(counts[key] for counts in train) for key in train[0]},
        "test": {key: sum(counts[key] for counts in test) for key in test[0]},
        "models": models,
        "protocol": {
            "train_start": f"{windows.train_start}",
            "train_days": windows.train_days,
            "delay_days": windows.delay_days,
            "test_days": windows.test_days,
            "weeks": len(results),
        },
        "weeks": [
            {
                "test_start": f"{week['windows'].test_start}",
                **{metric: week["reports"][HEADLINE][metric]["value"] for metric in RANKING},
                "oracle_card_precision_at_100": week["reports"][HEADLINE]["card_precision_at_100"]["ceiling"],
                "train": week["learnt"][TRAIN_WINDOW],
                "test": week["test"],
                "models": {name: _flat(report) for name, report in week["reports"].items()},
            }
            for week in results
        ],
    }
    if all(week["leaks"] is not None for week in results):
        result["leak_check"] = leak_check([week["leaks"] for week in results])
    return result


def _flat(report: Report) -> dict[str, Any]:
    values: dict[str, Any] = {metric: parts["value"] for metric, parts in report.items()}
    return values | {"intervals": {metric: [parts["low"], parts["high"]] for metric, parts in report.items()}}


def print_table(result: dict[str, Any]) -> "Table":
    """The result as a table for people."""
    from rich.table import Table

    protocol, test = result["protocol"], result["test"]
    table = Table(
        title=f"{protocol['weeks']} test window(s) of {protocol['test_days']} days after {protocol['train_start']}: "
        f"{test['rows']:,} payments, {test['frauds']:,} frauds"
    )
    table.add_column("model, learnt from")
    for heading in ("ROC AUC", "average\nprecision", "Card Pre-\ncision@100", "cost per\n1,000"):
        table.add_column(heading, justify="right")
    for name, model in result["models"].items():
        learnt = f"\n[dim]{model['learnt_from']['rows']:,} payments" if "learnt_from" in model else ""
        cells = [_cell(model, metric, ".3f") for metric in RANKING]
        table.add_row(name + learnt, *cells, _cell(model, "cost_per_1000", ".0f"))
    return table


def _cell(model: dict[str, Any], metric: str, form: str) -> str:
    if metric not in model:
        return ""
    if "intervals" not in model:
        return format(model[metric], form)
    low, high = model["intervals"][metric]
    return f"{model[metric]:{form}}\n[dim]{low:{form}}–{high:{form}}"
