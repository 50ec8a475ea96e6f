"""Nothing of ours loads what could run code: no pickles, by whatever name, and no text as a program.

Models are LightGBM's text, NumPy's arrays without objects, JSON and usearch's index, each checked against its digest.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    p for top in ("whiteboard", "services", "pipelines", "feature_repo", "dags") for p in (ROOT / top).rglob("*.py")
]
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch", "skops"}
CALLS = {
    "read_pickle",
    "to_pickle",
    "allow_pickle",
    "load_model",
    "unsafe_load",
    "full_load",
    "eval",
    "exec",
    "__import__",
}


def offences(source: str) -> list[str]:
    """What a program does that it must not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [n.name for n in names if n.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in MODULES:
                found.append(module)
            case ast.Call(func=ast.Attribute(attr=name)) if name in CALLS:
                found.append(name)
            case ast.Call(func=ast.Attribute(value=ast.Attribute() | ast.Name(), attr="load_model") as called):
                if "mlflow" in ast.unparse(called):  # a flavour of MLflow; ours is whiteboard.*.model
                    found.append(ast.unparse(called))
            case ast.Call(func=ast.Attribute(value=ast.Name(id="yaml"), attr="load")):
                found.append("yaml.load")
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                found.append(name)
            case ast.keyword(arg="allow_pickle", value=value) if ast.unparse(value) != "False":
                found.append("allow_pickle")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_loads_what_could_run_code(path: Path) -> None:
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch.nn as nn",
        "pd.read_pickle(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "mlflow.sklearn.load_model(uri)",
        "eval(text)",
        "yaml.load(text)",
    ],
)
def test_such_a_program_would_be_found(source: str) -> None:
    assert offences(source)
