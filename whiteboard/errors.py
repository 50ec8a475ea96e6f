"""Every error that Whiteboard raises on purpose. A message names the thing, the value and the cure."""


class WhiteboardError(Exception):
    """Base of all errors below; the CLI prints its message and exits with 1, without a traceback."""


class SettingsError(WhiteboardError):
    """A setting has a value that cannot work."""


class ContractError(WhiteboardError):
    """A file breaks its data contract (README: your own data)."""

    def __init__(self, *, source: str, column: str, row: int | None, value: object, expected: str) -> None:
        self.column, self.row, self.value, self.expected = column, row, value, expected
        where = f"column {column!r}" + (f", row {row}" if row is not None else "")
        super().__init__(f"{source}: {where}: found {value!r}, expected {expected}. Nothing was loaded.")


class EventError(WhiteboardError):
    """A record of the event log cannot be decoded or breaks its schema; it goes to the dead letters."""


class EventLogUnavailableError(WhiteboardError):
    """No broker answers."""


class LakeError(WhiteboardError):
    """The Parquet lake holds something that it should not."""


class LateEventError(WhiteboardError):
    """A value was asked for a time further back than the tiles of its entity reach."""


class FeatureStoreError(WhiteboardError):
    """The feature store is missing, not applied, or holds a row that cannot be read."""


class ModelError(WhiteboardError):
    """A model is missing or its files do not fit together."""


class NotEnoughDataError(WhiteboardError):
    """There is too little labelled data to train or judge a model."""


class NotYetError(WhiteboardError):
    """What was asked for will be there later: a day is not over, or not judged yet."""


class ProcessError(WhiteboardError):
    """A process of the embedded stack did not start, or died."""


class RegistryUnavailableError(WhiteboardError):
    """The model registry does not answer; what was loaded or copied before can still be used."""


class DependencyError(WhiteboardError):
    """A dependency failed, was too slow, or is left alone after failing; the caller answers without it."""


class ExperimentError(WhiteboardError):
    """An experiment is not declared, cannot run beside the others, or has no outcomes to judge."""


class LoadError(WhiteboardError):
    """A load test cannot be run as asked, or its generator failed."""
