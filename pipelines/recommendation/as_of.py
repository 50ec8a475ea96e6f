"""Training a recommendation model as of a day, in steps that may be repeated or cut off anywhere (whiteboard/steps.py).

STEPS.dataset(settings, day); STEPS.fit(settings, day, TrainConfig()); STEPS.evaluate(settings, day)
"""

from pathlib import Path

from pipelines.recommendation.dataset import Dataset, build
from pipelines.recommendation.package import pack, register
from pipelines.recommendation.promote import promote
from pipelines.recommendation.train import TrainConfig, fit
from whiteboard.recommendation.events import SYSTEM
from whiteboard.steps import Steps


def _pack(rows: Dataset, config: TrainConfig, folder: Path) -> Path:
    return pack(fit(rows, config), rows, folder)


STEPS = Steps(SYSTEM, build=build, load=Dataset.load, pack=_pack, register=register, promote=promote)
