"""MLflow: runs, versions, aliases, gate verdicts, and a verified local copy of every version in use.

    registry = Registry(settings)
    ref = registry.champion("fraud")          # VersionRef(name="fraud", version="3", …) or None; about 1 ms
    model = FraudModel.load(registry.download(ref))

    HOME/models/fraud/3/model.txt, model.json, reference.parquet, manifest.json     the copy, checked by sha256
    HOME/models/fraud/versions.json                                                which version each alias meant

When the registry is gone, `last_good` gives the version that an alias named last, out of the copies.
"""

import fcntl
import json
import logging
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from whiteboard.errors import ModelError, RegistryUnavailableError
from whiteboard.manifest import MANIFEST, intact, write_atomically, write_manifest
from whiteboard.settings import Settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER = "champion", "challenger"

_DIGEST = "manifest_sha256"
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for a model or alias it lacks
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",  # the lock file of whatever project we are started in is not the model's
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default of 7 with backoff hangs for minutes when a server is gone
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
SETTLED_S = 2.0  # after which a file that is written again has another time, whatever the file system's clock
_T = TypeVar("_T")


@dataclass(frozen=True)
class VersionRef:
    """A registered version; `alias` is the alias it was found by, `digest` the sha256 of its manifest."""

    name: str
    version: str
    run_id: str
    source: str
    digest: str
    tags: dict[str, str] = field(default_factory=dict)
    alias: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """What a training run leaves behind, beside the model itself."""

    name: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Path | None = None  # a folder of plots, tables, the reference sample; logged as it is


class Registry:
    """The model registry of `settings`, reached on first use. A read never creates the registry."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._uri = settings.tracking_uri
        self._known: dict[tuple[str, str], tuple[object, VersionRef | None]] = {}  # by name and alias; as of a stamp
        for key, value in _ENVIRONMENT.items():  # before the first import of MLflow, which reads some of it
            os.environ.setdefault(key, value)

    def prepare(self) -> None:
        """Creates the registry's database if there is none yet; takes some seconds the first time.

        It is made beside its place and then moved there whole: MLflow makes the tables in dozens of steps, and another
        process that opens the file half-way would begin them anew.
        """
        path = self._sqlite_path()
        if path is None or path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with (path.parent / "prepare.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return
            unfinished = path.with_name("unfinished.db")
            unfinished.unlink(missing_ok=True)  # left by a process that was killed here
            with _asking(self._uri):
                from mlflow import MlflowClient

                logging.getLogger("mlflow").setLevel(logging.ERROR)
                logging.getLogger("alembic").setLevel(logging.WARNING)
                uri = f"sqlite:///{unfinished}"
                MlflowClient(uri, uri).search_registered_models(max_results=1)
            unfinished.rename(path)

    def register(
        self,
        name: str,
        model_dir: Path,
        record: RunRecord,
        *,
        loader_module: str,
        requirements: Sequence[str],
        alias: str | None = CHALLENGER,
    ) -> VersionRef:
        """Logs a run with its model files and registers them as a new version, to which `alias` then points.

        The version has the tags of the run from the moment it exists: `find` finds it even if this process is killed
        right after. `model_dir` gets a manifest with the sha256 of each file. MLflow's users load the version as a
        pyfunc through `loader_module`; `requirements` are pip's (inferring them takes MLflow a quarter of a minute).
        """
        import mlflow.pyfunc

        digest = write_manifest(model_dir)
        self.prepare()
        mlflow.set_tracking_uri(self._uri)
        experiment = self._experiment(name)
        with mlflow.start_run(experiment_id=experiment, run_name=record.name, tags=dict(record.tags)) as run:
            mlflow.log_params({key: str(value) for key, value in record.params.items()})
            mlflow.log_metrics(dict(record.metrics))
            if record.artifacts is not None:
                mlflow.log_artifacts(str(record.artifacts))
            logged = mlflow.pyfunc.log_model(
                name=name, loader_module=loader_module, data_path=str(model_dir), pip_requirements=list(requirements)
            )
        with suppress(mlflow.MlflowException):  # it is there already
            self._client.create_registered_model(name)
        tags = {_DIGEST: digest, **record.tags}
        version = self._client.create_model_version(
            name, logged.model_uri, run.info.run_id, tags=tags, model_id=logged.model_id
        )
        if alias is not None:
            self._client.set_registered_model_alias(name, alias, str(version.version))
        return _ref(version, alias)

    def champion(self, name: str) -> VersionRef | None:
        """The version that serves, None while there is none; RegistryUnavailableError when nobody answers."""
        return self.by_alias(name, CHAMPION)

    def challenger(self, name: str) -> VersionRef | None:
        """The version that was registered last and not yet refused or promoted, None if there is none."""
        return self.by_alias(name, CHALLENGER)

    def by_alias(self, name: str, alias: str) -> VersionRef | None:
        """The version that `alias` names now. MLflow is not asked again as long as its database has not changed."""
        stamp, key = self._stamp(), (name, alias)
        if stamp is None or self._known.get(key, (None, None))[0] != stamp:
            ref = self._read(name, lambda: _ref(self._client.get_model_version_by_alias(name, alias), alias))
            self._known[key] = (stamp, ref)
        return self._known[key][1]

    def version(self, name: str, version: str) -> VersionRef | None:
        """The version with that number, with its tags as of now."""
        return self._read(name, lambda: _ref(self._client.get_model_version(name, version), None))

    def versions(self, name: str) -> list[VersionRef]:
        """Every version, oldest first."""
        query = f"name = '{name}'"
        found = self._read(name, lambda: [_ref(v, None) for v in self._client.search_model_versions(query)])
        return sorted(found or [], key=lambda ref: int(ref.version))

    def find(self, name: str, tags: Mapping[str, str]) -> VersionRef | None:
        """The newest version that has all of these tags, None if there is none."""
        return next((ref for ref in reversed(self.versions(name)) if tags.items() <= ref.tags.items()), None)

    def metrics(self, ref: VersionRef) -> dict[str, float]:
        """The metrics of the run that made the version."""
        with _asking(self._uri):
            return dict(self._client.get_run(ref.run_id).data.metrics)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Points `alias` to `version`; services follow within their polling interval."""
        with _asking(self._uri):
            self._client.set_registered_model_alias(name, alias, version)

    def remove_alias(self, name: str, alias: str) -> None:
        """Takes the alias away; nothing happens when there is none."""
        with _asking(self._uri):
            self._client.delete_registered_model_alias(name, alias)

    def tag(self, ref: VersionRef, tags: Mapping[str, str]) -> None:
        """Writes tags on the version, such as the verdicts of its gates."""
        with _asking(self._uri):
            for key, value in tags.items():
                self._client.set_model_version_tag(ref.name, ref.version, key, value)

    def download(self, ref: VersionRef) -> Path:
        """The folder with the version's files, checked against its digest; downloaded once, then found locally.

        The copy appears whole or not at all. Raises ModelError when the files are not those that were registered, and
        RegistryUnavailableError when there is no copy and nobody answers.
        """
        target = self._folder(ref.name) / ref.version
        if not intact(target, ref.digest):
            self._fetch(ref, target)
        self._remember(ref)
        return target

    def last_good(self, name: str, alias: str = CHAMPION) -> VersionRef | None:
        """The version downloaded last under `alias` whose copy is intact; needs no registry."""
        known = self._remembered(name).get(alias)
        if known is None:
            return None
        ref = VersionRef(**known)
        return ref if intact(self._folder(name) / ref.version, ref.digest) else None

    @cached_property
    def _client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        warnings.filterwarnings("ignore", message="The ``noload`` loader strategy", category=DeprecationWarning)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        return MlflowClient(self._uri, self._uri)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = (self._settings.mlflow_dir / "artifacts").resolve().as_uri() if self._sqlite_path() else None
        return self._client.create_experiment(name, artifact_location=local)

    def _sqlite_path(self) -> Path | None:
        return Path(self._uri.removeprefix("sqlite:///")) if self._uri.startswith("sqlite:///") else None

    def _stamp(self) -> tuple[int, int, int] | None:
        """Differs when the database does; None if that cannot be told: a server's, or a file that was just written.

        Asking takes 6 ms of processor time, of the thread that answers requests too, and each service asks every
        second for two aliases.
        """
        path = self._sqlite_path()
        try:
            found = path.stat() if path is not None else None
        except FileNotFoundError:
            return None
        if found is None or time.time() - found.st_mtime < SETTLED_S:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self, name: str, ask: Callable[[], _T]) -> _T | None:
        path = self._sqlite_path()
        if path is not None and not path.exists():
            if self._remembered(name):
                raise RegistryUnavailableError(f"the registry {path} is gone; restore it or train anew")
            return None  # nothing was ever registered here
        with _asking(self._uri):
            try:
                return ask()
            except Exception as error:
                if getattr(error, "error_code", None) in _ABSENT:  # an MlflowException
                    return None
                raise

    def _folder(self, name: str) -> Path:
        return self._settings.home / "models" / name

    def _fetch(self, ref: VersionRef, target: Path) -> None:
        folder = self._folder(ref.name)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary, _asking(self._uri):
            from mlflow.artifacts import download_artifacts

            # Not ref.source, `models:/m-…`: MLflow looks that up at the default registry, whichever it is told.
            stored = self._client.get_model_version_download_uri(ref.name, ref.version)
            root = Path(download_artifacts(artifact_uri=stored, dst_path=temporary, tracking_uri=self._uri))
            found = next(root.rglob(MANIFEST), None)
            if found is None or not intact(found.parent, ref.digest):
                raise ModelError(
                    f"the files of {ref.name} version {ref.version} are not those that were registered "
                    f"(manifest {ref.digest[:12]}…); register the version again"
                )
            with (folder / "copy.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not intact(target, ref.digest):  # or another process was faster, and its copy is in use by now
                    shutil.rmtree(target, ignore_errors=True)
                    with suppress(OSError):
                        found.parent.rename(target)
        if not intact(target, ref.digest):
            raise ModelError(f"cannot keep a copy of {ref.name} version {ref.version} in {target}; is it writable?")

    def _remembered(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self._folder(name) / "versions.json").read_text()))
        except (OSError, ValueError):
            return {}

    def _remember(self, ref: VersionRef) -> None:
        known = self._remembered(ref.name)
        entry = asdict(ref)
        if ref.alias is None or known.get(ref.alias) == entry:
            return
        write_atomically(self._folder(ref.name) / "versions.json", json.dumps(known | {ref.alias: entry}, indent=1))


def _ref(version: "ModelVersion", alias: str | None) -> VersionRef:
    tags = dict(version.tags)
    ref = VersionRef(
        version.name, str(version.version), str(version.run_id), str(version.source), tags.get(_DIGEST, ""), tags
    )
    return replace(ref, alias=alias)


@contextmanager
def _asking(uri: str) -> Iterator[None]:
    """Turns what MLflow, its database driver or HTTP raise when nobody answers into RegistryUnavailableError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:  # the errors of requests are OSErrors
        raise RegistryUnavailableError(f"the model registry {uri} does not answer ({error})") from error
