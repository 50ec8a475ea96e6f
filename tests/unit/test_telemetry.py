"""The version behind an alias: one series at a time, whatever it was before."""

from prometheus_client import REGISTRY

from whiteboard.telemetry import VersionGauge


def versions(alias: str) -> list[str]:
    """The versions that the info metric names for `alias`."""
    [family] = [f for f in REGISTRY.collect() if f.name == "toy_model"]
    return [sample.labels["version"] for sample in family.samples if sample.labels["alias"] == alias]


def test_a_new_version_takes_the_place_of_the_former_one_and_none_is_a_value_too() -> None:
    gauge = VersionGauge("toy_model", "a toy's version")
    labels = {"system": "toy", "alias": "champion"}
    for version, number in (("3", 3.0), ("12", 12.0), (None, 0.0)):
        gauge.set("toy", "champion", version)
        gauge.set("toy", "challenger", "13")
        assert REGISTRY.get_sample_value("toy_model_version", labels) == number
        assert (versions("champion"), versions("challenger")) == ([version or "none"], ["13"])
