"""The lake's impressions as rows, one an item shown: what the data set, the monitor and the experiments read.

shown_sql(lake.relation(IMPRESSIONS, Impression))
request_id, event_timestamp, user_id, …, shown_id, item_id, position, score, source, propensity, features, watermarks
"""

_ITEM = (
    '[{"item_id": "VARCHAR", "position": "INTEGER", "score": "DOUBLE", "source": "VARCHAR", "category": "VARCHAR", '
    '"propensity": "DOUBLE", "features": "MAP(VARCHAR, DOUBLE)", "watermark": "JSON"}]'
)


def shown_sql(relation: str, where: str = "true") -> str:
    """DuckDB SQL for the items shown of the impressions in `relation`, each request once.

    `features` is a map, empty where no ranker decided; `watermarks` is JSON {"user": …, "item": …}; `shown_id` names
    the row. The place of the impression in the log goes along.
    """
    return f"""SELECT * EXCLUDE (shown, user_watermark), request_id || '/' || shown.position AS shown_id,
               unnest(shown), json_object('user', user_watermark, 'item', shown.watermark)::VARCHAR AS watermarks
        FROM (SELECT request_id, event_timestamp, created_timestamp, user_id, model_version, experiment, arm, degraded,
                     epoch, partition, "offset", watermark::JSON AS user_watermark,
                     unnest(from_json(items, '{_ITEM}')) AS shown
              FROM (SELECT * FROM {relation} WHERE {where}
                    QUALIFY row_number() OVER (PARTITION BY request_id ORDER BY created_timestamp) = 1))"""


def outcomes_sql(impressions: str, interactions: str, where: str = "true") -> str:
    """The same rows with whether each item was `seen` and `clicked` (or bought), by the interactions of its request."""
    return f"""SELECT shown.*, coalesce(seen, false) AS seen, coalesce(clicked, false) AS clicked
        FROM ({shown_sql(impressions, where)}) shown
        LEFT JOIN (SELECT request_id, item_id, bool_or(event_type = 'view') AS seen,
                          bool_or(event_type IN ('click', 'purchase')) AS clicked
                   FROM {interactions} WHERE request_id IS NOT NULL GROUP BY ALL) USING (request_id, item_id)"""
