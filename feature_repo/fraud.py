"""Fraud features in Feast.

Online, an entity has one row with its window tiles (`state`), pushed by the stream worker; the service computes the
values from it at the request's time. Offline, the same definitions give one row of values for each transaction, as
they were known when it was made; training sets are point-in-time joins on those.
"""

from entities import customer, terminal, transaction
from feast import FeatureService
from views import point_in_time, state, values, version_services

from whiteboard.fraud.features import CUSTOMER_FOLD, FEATURES, TERMINAL_FOLD

TILES = "window tiles and watermark, msgpack (whiteboard/windows.py)"
fraud_customer = state("fraud_customer", customer, TILES)
fraud_terminal = state("fraud_terminal", terminal, TILES)

source = point_in_time("fraud")
_of_payment = [f for f in FEATURES if f not in CUSTOMER_FOLD.features and f not in TERMINAL_FOLD.features]
fraud_payment_values = values("fraud_payment_values", [transaction], _of_payment, source)
fraud_customer_values = values("fraud_customer_values", [customer, transaction], CUSTOMER_FOLD.features, source)
fraud_terminal_values = values("fraud_terminal_values", [terminal, transaction], TERMINAL_FOLD.features, source)

_views = [fraud_payment_values, fraud_customer_values, fraud_terminal_values]
fraud_training = FeatureService(
    name="fraud_training", features=_views, description="every feature: what a training set is drawn from"
)
globals().update(version_services("fraud", _views))
