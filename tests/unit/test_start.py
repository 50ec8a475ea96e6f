"""What a process imports at its start."""

import whiteboard  # noqa: F401  (before Feast)

CHECKING = "TypeCheckMemo"  # what typeguard calls in a function that it has rewritten


def test_feasts_classes_are_not_rewritten_for_run_time_type_checks() -> None:
    from feast import FeatureStore, FeatureView
    from feast.data_source import DataSource

    for written in (FeatureStore, FeatureView, DataSource):
        assert CHECKING not in written.__init__.__code__.co_names
