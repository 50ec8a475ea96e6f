"""The features of a payment against its windows, as a client or an endpoint computes them from Feast's values.

They are defined in whiteboard/fraud/features.py; this file is for environments without the project. That both give the
same probabilities is checked before anything is timed.
"""

from math import nan


def derived(amount: float, at_s: float, values: dict[str, float]) -> dict[str, float]:
    """The six features that depend on the payment itself; `at_s` is Unix time, `values` those of the feature store."""
    usual, mean, std = values["customer_mean_90d"], values["customer_mean_30d"], values["customer_std_30d"]
    return {
        "amount": amount,
        "is_night": float(at_s // 3600 % 24 <= 6),
        "is_weekend": float((at_s // 86_400 + 3) % 7 >= 5),
        "amount_to_mean": amount / usual if usual != 0 else nan,
        "recent_max_to_mean": values["customer_max_7d"] / usual if usual != 0 else nan,
        "amount_zscore": (amount - mean) / (std + 1),
    }


def row(payment: dict[str, object], at_s: float, values: dict[str, object], features: list[str]) -> list[float]:
    """The model's input, in order; what the feature store does not have (None) is NaN."""
    known = {name: nan if value is None else float(value) for name, value in values.items()}  # type: ignore[arg-type]
    known |= derived(float(payment["amount"]), at_s, known)  # type: ignore[arg-type]
    return [known[name] for name in features]
