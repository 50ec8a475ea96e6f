"""The version behind an alias: one series at a time, whatever it was before."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest

from whiteboard.telemetry import LoopCounter, LoopHistogram, VersionGauge


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


def test_what_one_thread_counts_is_exported_as_the_library_does() -> None:
    texts = []
    for counter, histogram in ((Counter, Histogram), (LoopCounter, LoopHistogram)):
        registry = CollectorRegistry()
        seconds = histogram("toy_seconds", "a toy's", ["hop"], buckets=(0.1, 1, 5), registry=registry)
        toys = counter("toys", "toys", ["kind"], registry=registry)
        plain = counter("plain", "without labels", registry=registry)
        for value in (0.0, 0.1, 0.100001, 1, 4.9, 5, 5.1, 1e9):
            seconds.labels("model").observe(value)
            toys.labels("bear").inc()
            plain.inc(value)
        text = generate_latest(registry).decode()
        texts.append([line for line in text.splitlines() if "_created" not in line])
    assert texts[0] == texts[1]
    assert 'toy_seconds_bucket{hop="model",le="1.0"} 4.0' in texts[0]
