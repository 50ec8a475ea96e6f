"""The check of an image's packages, as infra/docker/Dockerfile runs it."""

import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "docker" / "imports.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_what_is_imported_only_within_a_function_is_missed_too(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text("import json\n\ndef judge():\n    from json.gone import Test\n")
    done = run(str(tmp_path))
    assert done.returncode == 1
    assert "json.gone" in done.stderr


def test_what_is_left_out_on_purpose_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "embedded.py").write_text("from os import path\nimport broker_in_a_wheel.bin\n")
    assert run(str(tmp_path), "--but", "broker_in_a_wheel").returncode == 0
    assert run(str(tmp_path)).returncode == 1


def test_an_image_does_without_the_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = {re.split("[=>]", name)[0].replace("-", "_") for names in extras.values() for name in names}
    words = (ROOT / "infra" / "docker" / "Dockerfile").read_text().split()
    left_out = {name for but, name in pairwise(words) if but == "--but"}
    assert packages <= left_out
