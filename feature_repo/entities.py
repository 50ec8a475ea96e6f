"""The entities that features belong to."""

from feast import Entity, ValueType

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING, description="a card holder")
terminal = Entity(
    name="terminal", join_keys=["terminal_id"], value_type=ValueType.STRING, description="a card terminal"
)
transaction = Entity(
    name="transaction",
    join_keys=["transaction_id"],
    value_type=ValueType.STRING,
    description="a payment; in the keys of training views, so that two payments in one second cannot swap features",
)
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="who is recommended to")
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="what is recommended")
shown = Entity(
    name="shown",
    join_keys=["shown_id"],
    value_type=ValueType.STRING,
    description="an item in the answer to a request; in the keys of training views, as a transaction is",
)
