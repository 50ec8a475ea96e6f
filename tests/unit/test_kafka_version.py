"""The Kafka that the tests run is the one that Compose runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("compose", sorted(ROOT.glob("docker-compose*.yml")), ids=lambda path: path.name)
def test_compose_runs_the_version_of_the_pom(compose: Path) -> None:
    pom = (ROOT / "infra/kafka/pom.xml").read_text()
    (version,) = re.findall(r"<kafka.version>(.+)</kafka.version>", pom)
    assert set(re.findall(r"image: apache/kafka:(\S+)", compose.read_text())) <= {version}
