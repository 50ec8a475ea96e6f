"""Which fraud events go where in the stream worker: into which entity's row, onto which re-keyed topic, into the lake.

fraud.transactions ──► customer rows          ──► fraud.transactions-by-terminal ──► terminal rows
fraud.labels       ─────────────────────────────►                                       │
fraud.transactions, fraud.labels, fraud.decisions ──► lake
"""

from whiteboard.fraud.events import (
    DECISIONS,
    LABELS,
    SCHEMAS,
    SYSTEM,
    TRANSACTIONS,
    TRANSACTIONS_BY_TERMINAL,
    Decision,
    Label,
    Transaction,
)
from whiteboard.fraud.features import CUSTOMER_FOLD, TERMINAL_FOLD
from whiteboard.streams import Route, Routes

CUSTOMER_VIEW, TERMINAL_VIEW = "fraud_customer", "fraud_terminal"

ROUTES = Routes(
    system=SYSTEM,
    schemas=SCHEMAS,
    folded=(
        Route(topic=TRANSACTIONS, key="customer_id", fold=CUSTOMER_FOLD, view=CUSTOMER_VIEW),
        Route(topic=TRANSACTIONS_BY_TERMINAL, key="terminal_id", fold=TERMINAL_FOLD, view=TERMINAL_VIEW),
    ),
    rekeyed={
        TRANSACTIONS: (TRANSACTIONS_BY_TERMINAL, "terminal_id"),
        LABELS: (TRANSACTIONS_BY_TERMINAL, "terminal_id"),
    },
    sunk={TRANSACTIONS: Transaction, LABELS: Label, DECISIONS: Decision},
)
