"""As much of kustomize as infra/k8s uses, so that its manifests can be looked at without a tool or a cluster.

    for described in render(K8S / "overlays" / "production"):
        print(described["kind"], described["metadata"]["name"])

What it does not understand it refuses. tests/unit/test_k8s.py compares it with the real one where that is installed.
"""

import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

UNDERSTOOD = {
    "apiVersion", "kind", "namespace", "resources", "patches", "labels", "images", "configMapGenerator",
    "secretGenerator",
}  # fmt: skip
WITHOUT_NAMESPACE = {"Namespace"}


def render(folder: Path) -> list[Object]:
    """The objects of a kustomization, as `kubectl kustomize` prints them but for the hash in generated names."""
    spec = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert spec.keys() <= UNDERSTOOD, f"{folder.name}: render() does not know {', '.join(spec.keys() - UNDERSTOOD)}"
    objects: list[Object] = []
    for name in spec.get("resources", []):
        objects += render(folder / name) if (folder / name).is_dir() else _load(folder / name)
    for kind, field in (("ConfigMap", "configMapGenerator"), ("Secret", "secretGenerator")):
        for generator in spec.get(field, []):
            _generate(objects, kind, generator, folder)
    for patch in (change for entry in spec.get("patches", []) for change in _load(folder / entry["path"])):
        _merge(the(objects, patch["kind"], patch["metadata"]["name"]), patch)
    for entry in spec.get("labels", []):
        assert entry["includeTemplates"], "render() writes labels into templates too"
        for labelled in (*objects, *(t for o in objects for t in templates(o))):
            labelled.setdefault("metadata", {}).setdefault("labels", {}).update(entry["pairs"])
    for image in spec.get("images", []):
        for container in (c for o in objects for c in containers(o) if c["image"] == image["name"]):
            container["image"] = f"{image['name']}:{image['newTag']}"
    for described in objects:
        if "namespace" in spec and described["kind"] not in WITHOUT_NAMESPACE:
            described["metadata"]["namespace"] = spec["namespace"]
    return objects


def the(objects: list[Object], kind: str, name: str) -> Object:
    """The one object of this kind and name."""
    found = [o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} objects are a {kind} called {name}"
    return found[0]


def templates(workload: Object) -> list[Object]:
    """The templates in a Deployment, Job or CronJob; that of its pods is the last."""
    spec = workload.get("spec", {})
    if "jobTemplate" in spec:
        return [spec["jobTemplate"], *templates(spec["jobTemplate"])]
    return [spec["template"]] if "template" in spec else []


def containers(workload: Object) -> list[Object]:
    """The containers of a workload's pods, those that run first included."""
    pods = [template["spec"] for template in templates(workload)[-1:]]
    return [c for pod in pods for c in (*pod.get("initContainers", []), *pod["containers"])]


def walk(value: Any, key: str) -> Iterator[Any]:
    """Every value that stands under `key`, however deep."""
    if isinstance(value, dict):
        yield from ([value[key]] if key in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from walk(inner, key)


def _load(path: Path) -> list[Object]:
    documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
    return json.loads(json.dumps(documents))  # type: ignore[no-any-return]  # what YAML shares by alias is now apart


def _generate(objects: list[Object], kind: str, generator: Object, folder: Path) -> None:
    lines = [line for file in generator["envs"] for line in (folder / file).read_text().splitlines()]
    data = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    if kind == "Secret":
        data = {key: b64encode(value.encode()).decode() for key, value in data.items()}
    if generator.get("behavior") == "merge":
        the(objects, kind, generator["name"])["data"].update(data)
        return
    made = {"apiVersion": "v1", "kind": kind, "metadata": {"name": generator["name"]}, "data": data}
    objects.append(made | ({"type": "Opaque"} if kind == "Secret" else {}))


def _merge(target: Object, patch: Object) -> None:
    """A strategic merge: mappings by key, lists of named things by name; anything else is replaced."""
    for key, value in patch.items():
        present = target.get(key)
        if isinstance(value, dict) and isinstance(present, dict):
            _merge(present, value)
        elif isinstance(value, list) and isinstance(present, list) and all("name" in v for v in value):
            for entry in value:
                _merge(next(p for p in present if p["name"] == entry["name"]), entry)
        else:
            target[key] = value
