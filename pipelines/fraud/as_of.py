"""Training a fraud model as of a day, in steps that may be repeated or cut off anywhere: what whiteboard/steps.py runs.

STEPS.dataset(settings, day); STEPS.fit(settings, day, TrainConfig()); STEPS.evaluate(settings, day)
"""

from pathlib import Path

from pipelines.fraud.dataset import Dataset, build
from pipelines.fraud.package import pack, register
from pipelines.fraud.promote import promote
from pipelines.fraud.train import TrainConfig, fit
from whiteboard.fraud.events import SYSTEM
from whiteboard.steps import Steps


def _pack(rows: Dataset, config: TrainConfig, folder: Path) -> Path:
    return pack(fit(rows, config), rows, folder)


STEPS = Steps(SYSTEM, build=build, load=Dataset.load, pack=_pack, register=register, promote=promote)
