"""Whose data the fraud system holds, and what is left of a payment once its customer was erased: that there was one.

A terminal's features count payments and known frauds, whoever made them; these numbers were read by other customers'
decisions, and stay. Which day a fraud was, and whether its amount was large, belongs to them (terminal_run_days).
"""

from whiteboard.erasures import Subject, erased
from whiteboard.fraud.events import Label, Transaction
from whiteboard.fraud.features import LARGE_AMOUNT

CUSTOMER = Subject(
    name="customer",
    columns=("customer_id",),
    views=("fraud_customer",),
    # a chargeback of an erased payment belongs to it, however late it comes
    time=lambda event: getattr(event, "transaction_timestamp", event.event_timestamp),
    remains={
        Transaction: {"transaction_id": erased, "customer_id": erased, "amount": lambda _: 0.0},
        Label: {
            "transaction_id": erased,
            "customer_id": erased,
            "amount": lambda amount: 0.0 if amount <= LARGE_AMOUNT else LARGE_AMOUNT + 1,
        },
    },
)
