"""What tutorials show: FastAPI, `get_online_features`, a DataFrame, `predict_proba`."""

import json
import os
from pathlib import Path

import mlflow
import pandas as pd
from fastapi import FastAPI
from feast import FeatureStore

from bench.peers.derived import row
from services.fraud.schemas import TransactionIn

folder = Path(os.environ["PEERS_HOME"])
store = FeatureStore(repo_path=str(folder / "repo"))
service = store.get_feature_service("fraud_peers")
model = mlflow.sklearn.load_model(str(folder / "mlflow-model"))
features = json.loads((folder / "features.json").read_text())
app = FastAPI()


@app.post("/v1/decisions")
def decide(payment: TransactionIn) -> dict[str, object]:
    """The probability of fraud."""
    keys = {"customer_id": payment.customer_id, "terminal_id": payment.terminal_id}
    values = {k: v[0] for k, v in store.get_online_features(service, [keys]).to_dict().items() if k not in keys}
    at_s = payment.event_timestamp.timestamp()
    frame = pd.DataFrame([row(payment.model_dump(), at_s, values, features)], columns=features)
    probability = float(model.predict_proba(frame)[0, 1])
    return {"transaction_id": payment.transaction_id, "fraud_probability": probability}
