"""From a candidate's folder to a registered version: found if it was registered before, else evaluated and logged.

    ref = register(settings, "fraud", candidate, features=…, finish=…, loader_module=…, packages=("lightgbm", …))

A candidate is what training hands over (pipelines/<system>/package.py):

    model/           the files that serve, and what the version is judged on
    notes/params.json, …             what explains it; the parameters of its run
    identity.json                    the tags by which it is found again (whiteboard/steps.py)
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import version as installed
from pathlib import Path

from whiteboard.promotion import offer
from whiteboard.registry import Registry, RunRecord, VersionRef
from whiteboard.settings import Settings

# Draws plots and writes tables into the folder of the run's artefacts; returns the run's metrics.
Finish = Callable[[Path], dict[str, float]]


def register(
    settings: Settings,
    system: str,
    candidate: Path,
    *,
    features: Sequence[str],
    finish: Finish,
    loader_module: str,
    packages: Sequence[str],
) -> VersionRef:
    """Registers the candidate as the next version, or finds the version that it has become before.

    The version becomes @challenger, unless it was judged already or a version that knows more is waiting or serving.
    Feast gets a feature service with what it reads.
    """
    from whiteboard.featurestore import FeatureStore

    registry = Registry(settings)
    own = json.loads((candidate / "identity.json").read_text())
    ref = registry.find(system, own)
    if ref is None:
        with tempfile.TemporaryDirectory() as temporary:
            files, artifacts = Path(temporary) / "model", Path(temporary) / "artifacts"
            shutil.copytree(candidate / "model", files)
            shutil.copytree(candidate / "notes", artifacts)
            record = RunRecord(
                name=f"{system} {datetime.fromisoformat(own['as_of']):%Y-%m-%d %H:%M}",
                params=json.loads((candidate / "notes" / "params.json").read_text()),
                metrics=finish(artifacts),
                tags=own,
                artifacts=artifacts,
            )
            needed = [f"{package}=={installed(package)}" for package in packages]
            ref = registry.register(system, files, record, loader_module=loader_module, requirements=needed, alias=None)
    FeatureStore(settings).register_service(system, ref.version, features)
    offer(registry, ref)
    return ref


def write_notes(candidate: Path, texts: dict[str, object]) -> None:
    """Writes the candidate's notes, one JSON file each."""
    notes = candidate / "notes"
    notes.mkdir()
    for name, content in texts.items():
        (notes / f"{name}.json").write_text(json.dumps(content, indent=1, default=str))
