"""What an item's row says, by itself: the way that a service's many rows at once are held against."""

from whiteboard.recommendation.features import ITEM_FOLD


def item_values(state: bytes | None, t_us: int) -> tuple[float, ...]:
    """The item's values at `t_us` in the order of ITEM_FOLD.features."""
    return tuple(ITEM_FOLD.values(ITEM_FOLD.decode(state), t_us).values())
