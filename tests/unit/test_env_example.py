"""`.env.example` promises to name every setting with its default."""

import re
from pathlib import Path

from whiteboard.settings import Settings

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"


def _example() -> dict[str, str]:
    return dict(re.findall(r"^# WHITEBOARD_(\w+)=(\S*)", EXAMPLE.read_text(), re.MULTILINE))


def test_the_example_names_every_setting_and_no_other() -> None:
    assert sorted(_example()) == sorted(name.upper() for name in Settings.model_fields)


def test_the_example_shows_the_defaults() -> None:
    given = {name.lower(): value for name, value in _example().items() if value}
    assert Settings.model_validate(given) == Settings()
    assert {n for n, f in Settings.model_fields.items() if f.default not in ("", None)} == set(given)
