"""What docker-compose.yml promises, read from the file itself; `make smoke` proves that it runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from whiteboard.preflight import SECRETS, weak_secrets
from whiteboard.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OURS = "whiteboard-"
MB = 1024**2


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


COMPOSE = load("docker-compose.yml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
JOBS = {name for name, service in SERVICES.items() if service.get("restart") == "no"}
STAYING = sorted(SERVICES.keys() - JOBS)


def megabytes(name: str) -> int:
    limit = str(SERVICES[name]["mem_limit"])
    replicas = int(SERVICES[name].get("deploy", {}).get("replicas", 1))
    assert limit.endswith("m"), f"{name}: {limit}"
    return int(limit[:-1]) * replicas


def limit(*profiles: str) -> int:
    """Of all processes that stay with these profiles, in MB."""
    chosen = {"core", *profiles}
    return sum(megabytes(name) for name in STAYING if chosen & set(SERVICES[name].get("profiles", ["core"])))


def environment(service: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = service.get("environment") or {}
    return given


def test_core_fits_into_four_gigabytes_and_all_into_eight_and_a_second_system_takes_three_more() -> None:
    assert limit() <= 4096
    assert limit("all") <= 8192
    assert limit("all", "recommendation") - limit("all") <= 3072


def test_core_fits_while_the_first_model_is_trained() -> None:
    """The services that wait for the bootstrap job do not run yet."""
    beside = {"kafka", "redis", "postgres", "mlflow", "stream"}
    assert sum(megabytes(name) for name in beside | {"bootstrap"}) <= 4096


def test_every_process_of_a_system_has_its_like_in_the_other() -> None:
    second = {name.removeprefix("recommendation-") for name in SERVICES if name.startswith("recommendation-")}
    assert second == {"stream", "bootstrap", "monitor", "traffic"}
    for name in second:
        ours, others = SERVICES[f"recommendation-{name}"], SERVICES[name]
        assert ours["image"] == others["image"]
        assert ours["command"][-2:] == ["--system", "recommendation"] or "recommendation" in ours["command"]


@pytest.mark.parametrize("name", STAYING)
def test_every_process_is_limited_checked_and_restarted(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert "mem_limit" in service
    if service["image"].startswith(OURS) and "airflow" not in name:
        dockerfile = (ROOT / "infra/docker/Dockerfile").read_text()
        target = re.search(rf"AS {service['build']['target']}\n(.*?)(?=\nFROM|\Z)", dockerfile, re.DOTALL)
        assert target and "HEALTHCHECK" in target[1]
    else:
        assert service["healthcheck"]["test"]


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.brokers.yml"])
def test_images_of_others_are_pinned_to_a_version(file: str) -> None:
    for name, service in load(file)["services"].items():
        image = service.get("image", OURS)
        if not image.startswith(OURS):
            assert re.search(r":v?\d+\.\d+\.?\d*", image), f"{name}: {image}"


def test_brokers_of_the_overlay_are_those_of_the_stack() -> None:
    others = load("docker-compose.brokers.yml")["services"]
    assert {others[name]["image"] for name in ("kafka-2", "kafka-3")} == {SERVICES["kafka"]["image"]}


def test_kafka_is_the_one_that_the_tests_run() -> None:
    version = re.search(r"<kafka.version>(.*)</kafka.version>", (ROOT / "infra/kafka/pom.xml").read_text())
    assert version and SERVICES["kafka"]["image"] == f"apache/kafka:{version[1]}"


def test_ports_are_open_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("file", ["docker-compose.yml", "docker-compose.brokers.yml"])
def test_every_setting_is_one(file: str) -> None:
    for name, service in load(file)["services"].items():
        for key in environment(service):
            if key.startswith("WHITEBOARD_") and key != "WHITEBOARD_COMMAND":
                assert key.removeprefix("WHITEBOARD_").lower() in Settings.model_fields, f"{name}: {key}"


def test_every_secret_has_a_default_that_preflight_knows() -> None:
    """Whatever password the file falls back to is refused in production."""
    text = (ROOT / "docker-compose.yml").read_text()
    defaults = dict(re.findall(r"\$\{(\w*(?:PASSWORD|SECRET)\w*):-([^}]*)\}", text))
    assert defaults.keys() == set(SECRETS)
    assert weak_secrets(defaults).keys() == set(SECRETS)
    assert environment(SERVICES["preflight"]).keys() >= set(SECRETS)


def test_nothing_with_data_starts_before_preflight() -> None:
    def waits_for(name: str) -> set[str]:
        depends = SERVICES[name].get("depends_on", {})
        return set(depends) | {further for other in depends for further in waits_for(other)}

    for name in SERVICES.keys() - {"preflight", "smoke"}:
        assert "preflight" in waits_for(name), name


def test_example_names_every_variable_of_the_file() -> None:
    used = set(re.findall(r"\$\{(\w+):-", (ROOT / "docker-compose.yml").read_text()))
    example = (ROOT / ".env.example").read_text()
    assert {name for name in used if not re.search(rf"^# {name}=", example, re.MULTILINE)} == set()


def test_the_proxy_passes_on_what_was_not_begun_and_never_what_is_only_late() -> None:
    conf = (ROOT / "infra" / "nginx" / "nginx.conf").read_text()
    seconds = {
        name: float(value) * {"ms": 1e-3, "s": 1.0}[unit]
        for name, value, unit in re.findall(r"proxy_(\w+_timeout) (\d+)(ms|s);", conf)
    }
    assert "proxy_next_upstream error timeout http_503 non_idempotent;" in conf
    assert 2 * seconds["connect_timeout"] < seconds["next_upstream_timeout"] < seconds["read_timeout"]


def test_the_proxy_speaks_as_the_services_do_when_none_of_them_can() -> None:
    conf = (ROOT / "infra" / "nginx" / "nginx.conf").read_text()
    said = {int(status): json.loads(body) for status, body in re.findall(r"return (\d+) '(.+)';", conf)}
    assert said.keys() == {503, 504}
    for status, problem in said.items():
        assert (problem["status"], problem["type"]) == (status, "about:blank")
        assert "try again" in problem["detail"]
