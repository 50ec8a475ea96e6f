"""What came of each unit of an experiment: from exposures, impressions and interactions in the lake to a row a user.

    outcomes(settings, experiment, until)
    unit_id  arm     exposed_at           requests  clicks  purchases  clicks_before
    u-00012  ranker  2026-02-20 08:15:03         3       2          0              5

Counted are the `window_days` after a user's first exposure, of users for whom they are over; `clicks_before` are the
two weeks before it, for CUPED.
"""

from datetime import datetime

import pandas as pd

from whiteboard.events import Exposure
from whiteboard.experiment import Experiment
from whiteboard.experiment_report import matured
from whiteboard.lake import Lake, connect
from whiteboard.recommendation.events import EXPOSURES, IMPRESSIONS, INTERACTIONS, Impression, Interaction
from whiteboard.settings import Settings

BEFORE_DAYS = 14


def outcomes(settings: Settings, experiment: Experiment, until: datetime) -> pd.DataFrame:
    """One row a unit whose window is over at `until`, in order of exposure."""
    lake = Lake(settings.lake_dir)
    with connect() as connection:
        exposures = connection.execute(
            f"SELECT unit_id, arm, event_timestamp AS exposed_at FROM {lake.relation(EXPOSURES, Exposure)} "
            "WHERE experiment = $name AND event_timestamp >= $started ORDER BY event_timestamp, unit_id",
            {"name": experiment.name, "started": experiment.started_at},
        ).df()
        units = matured(exposures, pd.Timestamp(until), experiment.window_days)
        connection.register("units", units)
        found: pd.DataFrame = connection.execute(
            f"""WITH asked AS (
                SELECT unit_id, count(*) AS requests FROM units JOIN {lake.relation(IMPRESSIONS, Impression)} i
                    ON i.user_id = unit_id AND i.event_timestamp >= exposed_at
                   AND i.event_timestamp < exposed_at + to_microseconds($window_us) GROUP BY ALL
            ), done AS (
                SELECT unit_id,
                    count(*) FILTER (event_type = 'click' AND i.event_timestamp >= exposed_at
                                     AND request_id IS NOT NULL) AS clicks,
                    count(*) FILTER (event_type = 'purchase' AND i.event_timestamp >= exposed_at) AS purchases,
                    count(*) FILTER (event_type = 'click' AND i.event_timestamp < exposed_at) AS clicks_before
                FROM units JOIN {lake.relation(INTERACTIONS, Interaction)} i
                    ON i.user_id = unit_id AND i.event_timestamp >= exposed_at - INTERVAL {BEFORE_DAYS} DAY
                   AND i.event_timestamp < exposed_at + to_microseconds($window_us) GROUP BY ALL
            )
            SELECT unit_id, arm, exposed_at, coalesce(requests, 0) AS requests, coalesce(clicks, 0) AS clicks,
                   coalesce(purchases, 0) AS purchases, coalesce(clicks_before, 0) AS clicks_before
            FROM units LEFT JOIN asked USING (unit_id) LEFT JOIN done USING (unit_id) ORDER BY exposed_at, unit_id""",
            {"window_us": int(experiment.window_days * 86_400_000_000)},
        ).df()
    return found
