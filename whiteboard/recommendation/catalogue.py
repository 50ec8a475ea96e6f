"""The catalogue as the lake holds it: the newest entry of every item.

catalogue = Catalogue(Lake(settings.lake_dir))
catalogue.items()        # item_id, title, categories (|-separated), price, event_timestamp (when listed)
"""

import pandas as pd

from whiteboard.lake import Lake, connect
from whiteboard.recommendation.events import ITEMS, Item


def catalogue_sql(relation: str, where: str = "true") -> str:
    """DuckDB SQL for the newest entry of every item in `relation`, the lake's of ITEMS, in order of item_id."""
    return f"""SELECT item_id, title, array_to_string(from_json(categories, '["VARCHAR"]'), '|') AS categories,
               price::DOUBLE AS price, event_timestamp
        FROM {relation} WHERE {where}
        QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY created_timestamp DESC) = 1 ORDER BY item_id"""


class Catalogue:
    """The catalogue of a lake, read anew when it has grown."""

    def __init__(self, lake: Lake) -> None:
        self._lake, self._size, self._items = lake, -1, pd.DataFrame()

    def items(self) -> pd.DataFrame:
        """The items known now; the same frame as long as nothing was added."""
        size = sum(self._lake.coverage(ITEMS).values())
        if size != self._size:
            with connect() as connection:
                self._items = connection.sql(catalogue_sql(self._lake.relation(ITEMS, Item))).df()
            self._size = size
        return self._items
