"""Windows of many rows at once: what `EntityFold.values` gives for one row after the other, by arrays.

    batch = BatchWindows(ITEM_FOLD)
    tiles = [batch.tiles(row) for row in rows]    # once a row
    batch.values(tiles, t_us)                     # (rows, features), 300 rows in a millisecond instead of ten

Only for counts and sums: those of integers are exact in whatever order arrays add them up, so that both ways give the
same bits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from whiteboard.windows import EntityFold, Row, Window, WindowFeature


class Tiles(NamedTuple):
    """The tiles of a row: by stream and hop an array (tiles, 1 + partials), a tile's number before its partials."""

    newest: int
    arrays: tuple[NDArray[np.int64], ...]


class BatchWindows:
    """The features of an entity's plain streams for many rows. Raises ValueError if one is no count or sum."""

    def __init__(self, fold: EntityFold) -> None:
        self._fold = fold
        plain = [stream for stream in fold.streams if stream.group is None]
        self._places = [
            (stream.name, hop, 1 + len(partials)) for stream in plain for hop, partials in stream.partials.items()
        ]
        order = {(name, hop): place for place, (name, hop, _) in enumerate(self._places)}
        # By array: window → (column of the result, column of the array, scale)
        self._read: list[dict[Window, list[tuple[int, int, int]]]] = [{} for _ in self._places]
        for stream in plain:
            for feature in stream.features:
                if not isinstance(feature, WindowFeature) or feature.function not in ("count", "sum"):
                    raise ValueError(f"{feature.name} is no count or sum over a window: read it by EntityFold.values")
                hop, counted = feature.window.hop, feature.function == "count"
                partial = ("count", "") if counted else ("sum", feature.measure)
                scale = 1 if counted else stream.measure(feature.measure).scale
                read = self._read[order[stream.name, hop]].setdefault(feature.window, [])
                read.append((fold.features.index(feature.name), 1 + stream.partials[hop].index(partial), scale))

    def tiles(self, row: Row) -> Tiles:
        """The row's tiles as arrays."""
        arrays = []
        for name, hop, width in self._places:
            columns = row.tiles.get(name, {}).get(hop) or [[]] * width
            arrays.append(np.array(columns, dtype=np.int64).T)
        return Tiles(row.newest, tuple(arrays))

    def values(self, rows: Sequence[Tiles], t: int) -> NDArray[np.float64]:
        """Every feature at time `t` (µs) in the order of `EntityFold.features`: (rows, features).

        Raises LateEventError when `t` is more than LATENESS before the newest event of one of the rows.
        """
        values = np.zeros((len(rows), len(self._fold.features)))
        if not rows:
            return values
        self._fold.check(max(row.newest for row in rows), t)
        for place, windows in enumerate(self._read):
            parts = [row.arrays[place] for row in rows]
            tiles = np.concatenate(parts)
            owner = np.repeat(np.arange(len(rows)), [len(part) for part in parts])
            for window, features in windows.items():
                first, last = window.tiles(t)
                within = (tiles[:, 0] >= first) & (tiles[:, 0] <= last)
                of, found = owner[within], tiles[within]
                for column, partial, scale in features:
                    values[:, column] = np.bincount(of, found[:, partial], minlength=len(rows)) / scale
        return values
