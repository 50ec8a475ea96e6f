"""What a DAG file may hold: Airflow's objects and commands, nothing of Whiteboard, no logic."""

import ast
import sys
from pathlib import Path

import pytest

DAGS = sorted((Path(__file__).parents[2] / "dags").glob("*.py"))
LOGIC = (ast.If, ast.IfExp, ast.For, ast.While, ast.Try, ast.Match, ast.ClassDef, ast.Lambda, ast.comprehension)


@pytest.mark.parametrize("file", DAGS, ids=lambda path: path.name)
def test_a_dag_file_imports_airflow_its_neighbour_and_the_standard_library_only(file: Path) -> None:
    tree = ast.parse(file.read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {"airflow", "commands", *sys.stdlib_module_names}


@pytest.mark.parametrize("file", DAGS, ids=lambda path: path.name)
def test_a_dag_file_decides_nothing(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert [type(node).__name__ for node in ast.walk(tree) if isinstance(node, LOGIC)] == []
