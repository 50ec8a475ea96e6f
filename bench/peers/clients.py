"""What each side is sent. The payments are the same: cards and terminals of one world, all at one moment.

Feast's server and MLflow's are two calls for one decision: the answer of the first is the second's input.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isnan
from secrets import token_hex

import msgspec

from bench.peers.derived import row
from whiteboard.load import Call

Row = dict[str, object]  # a payment without its id


@dataclass(frozen=True)
class Payments:
    """POST /v1/decisions: everyone's but Feast's and MLflow's."""

    rows: Sequence[Row]
    kind: str = "decisions"
    prefix: str = field(default_factory=lambda: token_hex(3))

    def call(self, number: int) -> Call:
        """The payment in turn, with an id of its own."""
        key = f"{self.prefix}-{number}"
        body = msgspec.json.encode({"transaction_id": key} | self.rows[number % len(self.rows)])
        return Call("POST", "/v1/decisions", body, str(number), self.kind)

    def follow_up(self, call: Call, body: bytes) -> Call | None:
        """Nothing."""
        return None


@dataclass(frozen=True)
class FeastThenMLflow:
    """POST /get-online-features to the plan's server, then POST /invocations to `mlflow`."""

    rows: Sequence[Row]
    features: Sequence[str]
    at_s: float
    mlflow: str
    kind: str = "features"

    def call(self, number: int) -> Call:
        """The request for a payment's features."""
        payment = self.rows[number % len(self.rows)]
        entities = {"customer_id": [payment["customer_id"]], "terminal_id": [payment["terminal_id"]]}
        body = msgspec.json.encode({"feature_service": "fraud_peers", "entities": entities})
        return Call("POST", "/get-online-features", body, str(number), self.kind)

    def follow_up(self, call: Call, body: bytes) -> Call | None:
        """The request for a probability, from the features; nothing after that."""
        if call.kind != self.kind:
            return None
        answer = json.loads(body)
        names, results = answer["metadata"]["feature_names"], answer["results"]
        found = {name: result["values"][0] for name, result in zip(names, results, strict=True)}
        payment = self.rows[int(call.key) % len(self.rows)]
        values = {name: value for name, value in found.items() if name not in payment}
        data = [None if isnan(value) else value for value in row(payment, self.at_s, values, list(self.features))]
        split = {"dataframe_split": {"columns": list(self.features), "data": [data]}}
        sent = msgspec.json.encode(split)
        return Call("POST", "/invocations", sent, call.key, "decisions", self.mlflow, continues=True)


def probability(kind: str, body: bytes) -> float | None:
    """The probability in an answer; None in one that has only features."""
    if kind != "decisions":
        return None
    answer = json.loads(body)
    if "predictions" in answer:
        return float(answer["predictions"][0][1])
    return float(answer["fraud_probability"])
