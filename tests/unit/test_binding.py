"""Every process that listens does so on loopback unless somebody says otherwise."""

import ast
import inspect
import typing
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
    for path in (ROOT / "services").rglob("*.py")
    if path.name in ("app.py", "worker.py")
)


@pytest.mark.parametrize("module", SERVICES)
def test_a_process_listens_on_loopback_by_default(module: str) -> None:
    parameters = inspect.signature(import_module(module).main).parameters
    assert parameters["host"].default == "127.0.0.1"
    assert typing.get_type_hints(import_module(module).main)["host"] is str


def test_no_other_address_stands_in_the_code() -> None:
    """0.0.0.0 is for containers, and stands in their commands."""
    for folder in ("whiteboard", "services", "pipelines", "bench"):
        for path in (ROOT / folder).rglob("*.py"):
            if {".venv", "peers"} & set(path.parts):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in ("0.0.0.0", "::"):
                    pytest.fail(f"{path.relative_to(ROOT)}:{node.lineno} binds {node.value}")
