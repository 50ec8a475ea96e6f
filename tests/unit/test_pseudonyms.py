"""What persons are called in logs and exports: always the same, under one key, and by nobody without it."""

import json
import logging
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from pydantic import SecretStr

from whiteboard.errors import SettingsError
from whiteboard.logs import PERSONAL, JsonFormatter
from whiteboard.preflight import SECRETS, check
from whiteboard.pseudonyms import FILE, kept_key, keyed, numbered, pseudonyms
from whiteboard.settings import Settings

GOOD = "7f1d0c36a9be44827f1d0c36a9be4482"


def test_a_home_has_one_key_of_its_own_that_only_its_owner_reads(tmp_path: Path) -> None:
    one, other = Settings(home=tmp_path / "one"), Settings(home=tmp_path / "other")
    first = pseudonyms(one)("c-12")
    assert first == pseudonyms(one)("c-12") != pseudonyms(one)("c-13")
    assert first != pseudonyms(other)("c-12"), "another home's names do not join"
    assert "c-12" not in first
    assert stat.S_IMODE((one.home / FILE).stat().st_mode) == 0o600
    assert [path.name for path in one.home.iterdir()] == [FILE]


def test_homes_with_the_same_set_key_join(tmp_path: Path) -> None:
    one, other = (Settings(home=tmp_path / name, pseudonym_key=SecretStr(GOOD)) for name in ("one", "other"))
    assert pseudonyms(one)("c-12") == pseudonyms(other)("c-12")
    assert not (tmp_path / "one").exists(), "no key is made where one is set"


def test_processes_that_begin_together_agree_on_the_key(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from whiteboard.pseudonyms import pseudonyms; "
        "from whiteboard.settings import Settings; "
        "print(pseudonyms(Settings(home=Path(sys.argv[1])))('c-12'))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in running}) == 1


def test_writers_with_the_same_process_id_agree_on_the_key_too(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:  # as processes in containers that share a home
        for attempt in range(50):
            path = tmp_path / f"{attempt}.key"
            found = set(pool.map(kept_key, [path] * 8))
            assert found == {bytes.fromhex(path.read_text())}
    assert len(list(tmp_path.iterdir())) == 50, "no draft is left"


@pytest.mark.parametrize("key", ["short", "whiteboard-development-whiteboard-development", "0" * 64, "ab" * 32])
def test_production_refuses_a_key_that_others_may_know(tmp_path: Path, key: str) -> None:
    settings = Settings(home=tmp_path, pseudonym_key=SecretStr(key))
    assert pseudonyms(settings)("c-12"), "good enough for development"
    production = settings.model_copy(update={"env": "production", "api_keys": f"shop:{'0f' * 32}"})
    with pytest.raises(SettingsError, match="WHITEBOARD_PSEUDONYM_KEY") as refused:
        check(production, dict.fromkeys(SECRETS, "7f1d0c36a9be4482"))
    assert key not in str(refused.value)
    assert check(
        production.model_copy(update={"pseudonym_key": SecretStr(GOOD)}), dict.fromkeys(SECRETS, "7f1d0c36a9be4482")
    ) == []  # fmt: skip


def test_a_broken_key_file_is_no_key(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("not hex")
    with pytest.raises(SettingsError, match=FILE):
        pseudonyms(Settings(home=tmp_path))


@pytest.mark.parametrize("field", PERSONAL)
def test_a_log_line_names_persons_by_pseudonym_whoever_logs(field: str) -> None:
    pseudonym = keyed(b"k" * 32)
    record = logging.makeLogRecord({"msg": "decided", field: "c-12", "terminal_id": "m-88"})
    line = json.loads(JsonFormatter("fraud", pseudonym).format(record))
    assert (line[field], line["terminal_id"]) == (pseudonym("c-12"), "m-88")
    assert "c-12" not in JsonFormatter("fraud").format(record), "without a key nobody is named at all"


def test_numbers_keep_groups_and_order_and_nothing_else() -> None:
    frame = pd.DataFrame({"customer_id": ["c-9", "c-10", "c-9"], "amount": [1.0, 2.0, 3.0]})
    found = numbered(frame, ["customer_id"])
    assert found["customer_id"].tolist() == ["000000002", "000000001", "000000002"]
    assert found["amount"].tolist() == [1.0, 2.0, 3.0]
