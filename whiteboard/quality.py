"""Live quality, from labels as they mature: what share of the flagged was fraud, what share of fraud was flagged.

Declined payments have no labels. Those that were waived into review to keep learning stand in for them: each counts as
1 / propensity payments (inverse propensity weighting, Horvitz and Thompson 1952).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

MATURE_SHARE = 0.8  # of the labels that are due: reviewed payments are labelled first, and are not like the others


@dataclass(frozen=True, slots=True)
class LiveQuality:
    """Quality on labelled decisions; None where it is undefined (nothing flagged, no fraud)."""

    decisions: int
    due: int  # decisions that get a label sooner or later: all but the declined
    labelled: int
    frauds: int
    precision: float | None
    recall: float | None
    average_precision: float | None

    @property
    def mature(self) -> bool:
        """Whether enough labels are in to judge by them."""
        return self.due > 0 and self.labelled >= MATURE_SHARE * self.due


def live_quality(decisions: pd.DataFrame) -> LiveQuality:
    """The quality of `decisions`: decision, propensity, fraud_probability and is_fraud (null: not labelled yet)."""
    from sklearn.metrics import average_precision_score

    known = decisions[decisions["is_fraud"].notna()]
    fraud = known["is_fraud"].astype(bool).to_numpy()
    # A waived decline was reviewed with the (small) propensity of its waiver; all else was labelled for certain.
    weight = np.where(known["decision"].to_numpy() == "review", 1 / known["propensity"].to_numpy(), 1.0)
    flagged = known["decision"].to_numpy() != "approve"
    caught = float(weight[fraud & flagged].sum())
    all_flagged, all_fraud = float(weight[flagged].sum()), float(weight[fraud].sum())
    ap = average_precision_score(fraud, known["fraud_probability"], sample_weight=weight) if fraud.any() else None
    return LiveQuality(
        decisions=len(decisions),
        due=int((decisions["decision"] != "decline").sum()),
        labelled=len(known),
        frauds=int(fraud.sum()),
        precision=caught / all_flagged if all_flagged else None,
        recall=caught / all_fraud if all_fraud else None,
        average_precision=None if ap is None else float(ap),
    )
