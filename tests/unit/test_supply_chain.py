"""What is installed is what was locked, byte for byte; and there is a list of it."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [p for p in ROOT.rglob("uv.lock") if ".venv" not in p.parts and ".uv" not in p.parts]


def packages(lock: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(lock.read_text())["package"]
    return found


def test_there_is_a_lock_for_each_environment() -> None:
    assert {p.parent.relative_to(ROOT).as_posix() for p in LOCKS} >= {".", "infra/airflow"}
    projects = {p.parent for p in ROOT.rglob("pyproject.toml") if not {".venv", ".uv"} & set(p.parts)}
    assert projects == {lock.parent for lock in LOCKS}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.parent.relative_to(ROOT).as_posix())
def test_every_file_that_may_be_installed_is_locked_with_its_hash(lock: Path) -> None:
    for package in packages(lock):
        source = package["source"]
        if "registry" not in source:
            assert source.keys() <= {"editable", "virtual"}, f"{package['name']} comes from {source}"
            continue
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files, package["name"]
        for file in files:
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", file.get("hash", "")), f"{package['name']}: {file}"


def test_everything_is_installed_as_locked() -> None:
    for file in ("Makefile", "infra/docker/Dockerfile", ".github/workflows/ci.yml"):
        path = ROOT / file
        for line in path.read_text().splitlines() if path.exists() else []:
            if re.search(r"\buv\)? (sync|run|export)\b", line):
                assert "--frozen" in line or "--locked" in line, f"{file}: {line.strip()}"
            assert not re.search(r"pip install(?!.*uv==)", line), f"{file}: {line.strip()}"


def test_the_sbom_lists_every_locked_dependency(tmp_path: Path) -> None:
    if shutil.which("uv") is None:
        pytest.skip("no uv")
    out = tmp_path / "sbom.json"
    subprocess.run(["make", "-s", "sbom", f"SBOM={out}"], cwd=ROOT, check=True, capture_output=True, timeout=120)
    bom = json.loads(out.read_text())
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.5")
    listed = {(c["name"], c["version"]) for c in bom["components"]}
    locked = {(p["name"], p["version"]) for p in packages(ROOT / "uv.lock") if "registry" in p["source"]}
    assert locked and listed >= locked, sorted(locked - listed)
    assert all(c["purl"].startswith("pkg:pypi/") for c in bom["components"] if (c["name"], c["version"]) in locked)
