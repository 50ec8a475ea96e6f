"""The dashboards as far as they can be judged without Grafana: complete, laid out without gaps, their queries sound."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

from tests.promql import DASHBOARDS, GRAFANA, ROOT, VARIABLES, panels, queries, rules, uses

FLOW = ["Traffic", "Serving", "Stream", "Features", "Model quality", "Drift"]  # as the picture of the architecture
CURRENT = {"stat", "timeseries", "bargauge", "heatmap", "state-timeline", "table"}  # none that Grafana is to drop
COLUMNS = 24
SCHEMA_VERSION = 42  # the last one of this format: what comes after is another format

Board = dict[str, Any]
board = pytest.mark.parametrize("board", [json.loads(path.read_text()) for path in DASHBOARDS], ids=lambda b: b["uid"])


def provisioned(kind: str, entries: str) -> list[dict[str, Any]]:
    files = (GRAFANA / "provisioning" / kind).glob("*.yml")
    return [entry for file in files for entry in yaml.safe_load(file.read_text())[entries]]


def test_there_is_an_overview_and_one_for_each_system() -> None:
    systems = {path.name for path in (ROOT / "services").iterdir() if (path / "app.py").exists()} - {"console"}
    assert {path.stem for path in DASHBOARDS} == {"overview"} | systems
    uids = [json.loads(path.read_text())["uid"] for path in DASHBOARDS]
    assert sorted(set(uids)) == sorted(uids)


@board
def test_panels_have_ids_of_their_own_and_cover_the_grid_without_gap_or_overlap(board: Board) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert sorted(set(ids)) == sorted(ids)
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        at = panel["gridPos"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    height = max(y for _, y in taken) + 1
    assert set(taken) == {(x, y) for x in range(COLUMNS) for y in range(height)}


@board
def test_rows_follow_the_picture(board: Board) -> None:
    rows = sorted((p for p in board["panels"] if p["type"] == "row"), key=lambda row: row["gridPos"]["y"])
    assert [row["title"] for row in rows][: len(FLOW)] == FLOW


@board
def test_every_panel_says_what_it_shows_in_which_unit(board: Board) -> None:
    assert board["schemaVersion"] == SCHEMA_VERSION
    for panel in panels(board):
        assert panel["type"] in CURRENT, f"{panel['title']}: {panel['type']} is no panel of today's Grafana"
        assert panel["title"] and panel["description"].endswith("."), panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert sorted(set(refs)) == sorted(refs), panel["title"]
        unit = panel["fieldConfig"]["defaults"].get("unit") or panel["options"].get("yAxis", {}).get("unit")
        assert unit or panel["fieldConfig"]["defaults"].get("mappings"), f"{panel['title']} has no unit"


@board
def test_every_panel_asks_a_datasource_that_is_provisioned(board: Board) -> None:
    sources = [{"type": source["type"], "uid": source["uid"]} for source in provisioned("datasources", "datasources")]
    asked = [*board["templating"]["list"], *board["annotations"]["list"], *panels(board)]
    assert all(entry["datasource"] in sources for entry in asked)


@board
def test_variables_are_used_and_what_is_used_is_a_variable(board: Board) -> None:
    defined = {f"${variable['name']}" for variable in board["templating"]["list"]}
    used = {name for panel in panels(board) for t in panel["targets"] for name in re.findall(r"\$\w+", t["expr"])}
    assert used - {"$__rate_interval"} == defined
    assert used <= set(VARIABLES), "the tests have to know what stands for it"


@board
def test_links_lead_to_dashboards_that_exist(board: Board) -> None:
    uids = {json.loads(path.read_text())["uid"] for path in DASHBOARDS}
    assert {link["url"].removeprefix("/d/") for link in board["links"]} <= uids


def test_grafana_finds_the_files_where_the_container_has_them() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(v.removesuffix(":ro").split(":") for v in compose["volumes"] if v.startswith("./"))
    assert mounts["./infra/grafana/provisioning"] == "/etc/grafana/provisioning"
    [provider] = provisioned("dashboards", "providers")
    assert mounts["./infra/grafana/dashboards"] == provider["options"]["path"]
    home = Path(compose["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    assert (GRAFANA / "dashboards" / home.name).exists()


def test_rates_are_taken_of_counters_and_recorded_metrics_are_recorded() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for query in queries():
        for metric in re.findall(r"\b(?:rate|irate|increase)\((\w+)", query.expr):
            assert metric.endswith(("_total", "_bucket", "_sum", "_count")), query
        assert {use.metric for use in uses(query.expr) if ":" in use.metric} <= recorded, query


def test_every_query_is_promql(tmp_path: Path, missing: Callable[[str], NoReturn]) -> None:
    if not (promtool := shutil.which("promtool")):
        missing("promtool (apt-get install prometheus)")
    found = list(queries())
    file = tmp_path / "queries.yml"
    wrapped = [{"record": f"query:{number}", "expr": query.expr} for number, query in enumerate(found)]
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": wrapped}]}))
    checked = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert f"{len(found)} rules found" in checked.stdout
