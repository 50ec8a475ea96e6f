"""The Kubernetes manifests: valid by Kubernetes' own schemas, and of one mind with the code that they run.

No cluster and no network. kubernetes-validate ships the schemas of what is Kubernetes' own. Custom resources (KEDA's
and the Prometheus operator's) have none there: what is said about them below is all that is checked.
"""

import ast
import importlib.util
import inspect
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer.main
import yaml

from services.stream.worker import group_of
from tests.unit.kustomization import Object, containers, render, templates, the, walk
from whiteboard.cli import app
from whiteboard.edge import REQUESTS
from whiteboard.httpserver import GRACE_S
from whiteboard.outbox import Outbox
from whiteboard.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "infra" / "k8s"
OLDEST, NEWEST = "1.32", "1.37"  # releases of Kubernetes; the oldest that knows all the fields without a feature gate
CUSTOM = {"ScaledObject", "TriggerAuthentication", "PodMonitor"}

each_overlay = pytest.mark.parametrize("overlay", ["development", "production"])


@cache
def rendered(overlay: str) -> list[Object]:
    return render(K8S / "overlays" / overlay)


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [o for o in rendered(overlay) if o["kind"] in kinds]


def workloads(overlay: str) -> Iterator[tuple[Object, Object]]:
    """Everything that makes pods, with its pod template."""
    yield from ((o, templates(o)[-1]) for o in rendered(overlay) if templates(o))


def selected(overlay: str, labels: Object) -> set[str]:
    """The workloads whose pods have all of these labels."""
    return {o["metadata"]["name"] for o, t in workloads(overlay) if labels.items() <= t["metadata"]["labels"].items()}


def settings_of(overlay: str) -> dict[str, str]:
    data: dict[str, str] = the(rendered(overlay), "ConfigMap", "settings")["data"]
    return data


# -- the manifests themselves --


@each_overlay
def test_the_renderer_agrees_with_kustomize(overlay: str) -> None:
    tool = next((c for c in (["kubectl", "kustomize"], ["kustomize", "build"]) if shutil.which(c[0])), None)
    if tool is None:
        pytest.skip("no kubectl and no kustomize to compare with")
    printed = subprocess.run([*tool, K8S / "overlays" / overlay], check=True, capture_output=True, text=True).stdout
    without_hashes = re.sub(r"\b(settings|credentials)-[a-z0-9]{10}\b", r"\1", printed)
    theirs = {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(without_hashes)}
    assert theirs == {(o["kind"], o["metadata"]["name"]): o for o in rendered(overlay)}


@each_overlay
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_that_is_not_custom_fits_kubernetes_own_schema(overlay: str, version: str) -> None:
    without_schema = set()
    for described in rendered(overlay):
        try:
            kubernetes_validate.validate(described, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            without_schema.add(described["kind"])
    assert without_schema == (CUSTOM if overlay == "production" else set())


def test_custom_resources_have_the_shape_of_their_kind() -> None:
    scaled = the(rendered("production"), "ScaledObject", "stream")["spec"]
    assert scaled.keys() <= {
        "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "pollingInterval", "triggers", "advanced"
    }  # fmt: skip
    for trigger in scaled["triggers"]:
        assert trigger.keys() <= {"type", "metadata", "metricType", "authenticationRef"}
        assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings only"
        if "authenticationRef" in trigger:
            login = the(rendered("production"), "TriggerAuthentication", trigger["authenticationRef"]["name"])
            assert [entry.keys() for entry in login["spec"]["secretTargetRef"]] == [{"parameter", "name", "key"}] * 2
    behaviour = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]  # KEDA makes an autoscaler with it
    target = {"apiVersion": "apps/v1", "kind": "Deployment", **scaled["scaleTargetRef"]}
    made = {"scaleTargetRef": target, "maxReplicas": scaled["maxReplicaCount"], "behavior": behaviour}
    autoscaler = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {}, "spec": made}
    kubernetes_validate.validate(autoscaler, NEWEST, strict=True)
    (monitor,) = of_kind("production", "PodMonitor")
    assert monitor["spec"].keys() == {"selector", "podTargetLabels", "podMetricsEndpoints"}


@each_overlay
def test_no_container_may_do_more_than_it_needs(overlay: str) -> None:
    for workload, template in workloads(overlay):
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(workload):
            may = container["securityContext"]
            assert (may["allowPrivilegeEscalation"], may["readOnlyRootFilesystem"]) == (False, True)
            assert may["capabilities"] == {"drop": ["ALL"]}
            writable = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert writable == {"/tmp", settings_of(overlay)["WHITEBOARD_HOME"]}


@each_overlay
def test_every_container_says_how_much_it_needs_and_which_version_it_is(overlay: str) -> None:
    for container in (c for o in rendered(overlay) for c in containers(o)):
        needs = container["resources"]
        assert needs["requests"].keys() == needs["limits"].keys() == {"cpu", "memory"}
        assert re.fullmatch(r"whiteboard-(fraud|stream|monitor|jobs):(?!latest)[\w.-]+", container["image"])


@each_overlay
def test_selectors_find_the_pods_that_they_mean(overlay: str) -> None:
    everything = selected(overlay, {})
    for chooser in of_kind(overlay, "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        spec, name = chooser["spec"], chooser["metadata"]["name"]
        selector = spec["podSelector"] if "podSelector" in spec else spec["selector"]
        assert selected(overlay, selector.get("matchLabels", selector)) == (
            everything if name == "whiteboard" else {name}
        )
    for workload, template in workloads(overlay):
        for spread in template["spec"].get("topologySpreadConstraints", []):
            assert selected(overlay, spread["labelSelector"]["matchLabels"]) == {workload["metadata"]["name"]}


@each_overlay
def test_ports_are_named_where_they_are_and_open_to_those_who_ask(overlay: str) -> None:
    everywhere: dict[str, int] = {}
    for container in (c for o in rendered(overlay) for c in containers(o)):
        own = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        asked = [part for command in walk(container, "exec") for part in command["command"] if "://" in part]
        assert {probe["port"] for probe in walk(container, "httpGet")} <= own.keys()
        assert {int(port) for url in asked for port in re.findall(r":(\d+)/", url)} <= set(own.values())
        assert set(own.values()) == {int(word) for word in container["command"] if word.isdigit()}
        everywhere |= own
    assert set(walk(of_kind(overlay, "Service"), "targetPort")) <= everywhere.keys()
    assert {end["port"] for ends in walk(of_kind(overlay, "PodMonitor"), "podMetricsEndpoints") for end in ends} <= (
        everywhere.keys()
    )
    rules = [rule for rules in walk(of_kind(overlay, "NetworkPolicy"), "ingress") for rule in rules]
    opened = {port["port"] for rule in rules for port in rule["ports"]}
    listening = {p["containerPort"] for o in rendered(overlay) for c in containers(o) for p in c.get("ports", [])}
    assert opened == listening


def test_autoscalers_scale_what_is_there_and_what_no_one_else_does() -> None:
    targets = [
        o["spec"]["scaleTargetRef"]["name"] for o in of_kind("production", "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert sorted(targets) == ["fraud", "stream"]
    for name in targets:
        assert "replicas" not in the(rendered("production"), "Deployment", name)["spec"]


# -- the manifests and the code --


@each_overlay
def test_every_setting_is_one_that_the_code_knows(overlay: str) -> None:
    def field(variable: str) -> str:
        return variable.removeprefix("WHITEBOARD_").lower()

    given = {field(name): value for name, value in settings_of(overlay).items()}
    secret = {field(key) for o in of_kind(overlay, "Secret") for key in o["data"]}
    secret |= {field(entry["key"]) for entries in walk(rendered(overlay), "secretTargetRef") for entry in entries}
    assert given.keys() | secret <= Settings.model_fields.keys()
    assert not given.keys() & (secret | {"redis_connection", "kafka_sasl_password"}), "a secret stands in the open"
    assert Settings.model_validate(given).online_store == "redis"


def test_no_secret_is_in_what_goes_to_production() -> None:
    assert of_kind("production", "Secret") == []


@each_overlay
def test_every_command_is_one_that_the_code_has(overlay: str) -> None:
    for container in (c for o in rendered(overlay) for c in containers(o)):
        for command in (container["command"], *(e["command"] for e in walk(container, "exec"))):
            assert_runs(command)


def assert_runs(command: list[str]) -> None:
    options = {word for word in command if word.startswith("--")}
    match command:
        case ["python", "-m", "whiteboard.probe", url, "--beat", seconds]:
            assert url.startswith("http://127.0.0.1:") and float(seconds) > 0
        case ["python", "-m", module, *_]:
            spec = importlib.util.find_spec(module)
            assert spec and spec.origin, f"there is no module {module}"
            tree = ast.parse(Path(spec.origin).read_text())
            main = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main")
            assert options <= {f"--{arg.arg.replace('_', '-')}" for arg in main.args.args}
        case ["whiteboard", *words]:
            found: Any = typer.main.get_command(app)
            for word in words:
                assert word in getattr(found, "commands", {}), f"{' '.join(command)}: there is no {word}"
                found = found.commands[word]
        case _:
            pytest.fail(f"who runs {command}?")


def test_a_container_runs_what_its_image_runs() -> None:
    dockerfile = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    for name in ("fraud", "stream", "monitor"):
        target = re.split(rf"^FROM \S+ AS {name}$", dockerfile, flags=re.MULTILINE)[1].split("\nFROM ")[0]
        (container,) = containers(the(rendered("production"), "Deployment", name))
        assert json.loads(re.findall(r"^CMD (\[.*\])$", target, re.MULTILINE)[-1]) == container["command"]


def test_there_are_never_more_workers_than_partitions() -> None:
    scaler = the(rendered("production"), "ScaledObject", "stream")["spec"]
    lag = next(t["metadata"] for t in scaler["triggers"] if t["type"] == "kafka")
    assert scaler["maxReplicaCount"] == int(settings_of("production")["WHITEBOARD_KAFKA_PARTITIONS"])
    assert lag["consumerGroup"] == group_of("fraud", epoch=0)
    assert lag["bootstrapServersFromEnv"] in settings_of("production")
    assert the(rendered("production"), "Deployment", "stream")["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0


def test_a_stopping_service_has_time_for_what_it_still_owes() -> None:
    pod = templates(the(rendered("production"), "Deployment", "fraud"))[-1]["spec"]
    unlisted_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    outbox_s = inspect.signature(Outbox.close).parameters["timeout_s"].default
    assert pod["terminationGracePeriodSeconds"] > unlisted_s + Settings().drain_s + GRACE_S + outbox_s


def test_the_service_scales_on_a_metric_that_it_exports() -> None:
    rule = yaml.safe_load((K8S / "prometheus-adapter.yaml").read_text())["rules"]["custom"][0]
    metric = the(rendered("production"), "HorizontalPodAutoscaler", "fraud")["spec"]["metrics"][0]["pods"]["metric"]
    exported = {sample.name for family in REQUESTS.labels("k8s", "/", "200").collect() for sample in family.samples}
    series, route = re.fullmatch(r'(\w+)\{.*route="([^"]+)"\}', rule["seriesQuery"]).groups()  # type: ignore[union-attr]
    assert series in exported
    assert rule["name"]["as"] == metric["name"]
    assert f'route="{route}"' in rule["metricsQuery"]
    assert f'@app.direct(\n        "{route}"' in (ROOT / "services" / "fraud" / "app.py").read_text()
