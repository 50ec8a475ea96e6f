"""BentoML with the Feast SDK, in an environment of its own: `bentoml serve bento:Fraud --working-dir bench/peers`."""

import json
import os
from datetime import datetime
from pathlib import Path

import bentoml
import lightgbm
import pandas as pd
from derived import row  # the working directory is this folder
from feast import FeatureStore

folder = Path(os.environ["PEERS_HOME"])


@bentoml.service(workers=1)
class Fraud:
    """Reads Feast's values, scores a DataFrame."""

    def __init__(self) -> None:
        self.store = FeatureStore(repo_path=str(folder / "repo"))
        self.features_of = self.store.get_feature_service("fraud_peers")
        self.model = lightgbm.Booster(model_file=str(folder / "model.txt"))
        self.features = json.loads((folder / "features.json").read_text())

    @bentoml.api(route="/v1/decisions")
    def decide(
        self, transaction_id: str, event_timestamp: datetime, customer_id: str, terminal_id: str, amount: float
    ) -> dict:
        """The probability of fraud."""
        keys = {"customer_id": customer_id, "terminal_id": terminal_id}
        found = self.store.get_online_features(self.features_of, [keys]).to_dict()
        values = {name: value[0] for name, value in found.items() if name not in keys}
        frame = pd.DataFrame(
            [row({"amount": amount}, event_timestamp.timestamp(), values, self.features)], columns=self.features
        )
        return {"transaction_id": transaction_id, "fraud_probability": float(self.model.predict(frame)[0])}
