"""The floor: FastAPI with the same request and answer, and nothing in between."""

from fastapi import FastAPI

from services.fraud.schemas import DecisionOut, TransactionIn

app = FastAPI()


@app.post("/v1/decisions")
async def decide(payment: TransactionIn) -> DecisionOut:
    """Approves everything."""
    return DecisionOut(
        transaction_id=payment.transaction_id,
        decision="approve",
        fraud_probability=0.01,
        reasons=[],
        model_version="0",
        degraded=False,
        latency_ms=0.0,
    )
