"""The traffic generator: a card network's gateway that never sleeps."""
