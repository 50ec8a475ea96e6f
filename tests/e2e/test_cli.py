"""The command line: quick where it can be, clear where it must refuse."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from whiteboard.fraud.features import FEATURES

HEAVY = {"feast", "mlflow", "pandas", "evidently", "lightgbm", "duckdb", "kafka", "fastapi"}
WHITEBOARD = str(Path(sys.executable).with_name("whiteboard"))


def whiteboard(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([WHITEBOARD, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("arguments", [["--help"], ["fraud", "--help"], ["fraud", "backtest", "--help"]])
def test_help_answers_without_loading_anything_heavy(arguments: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['whiteboard', *{arguments!r}]\n"
        "from whiteboard.cli import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_printed_sql_is_sql_and_names_every_feature() -> None:
    sql = whiteboard("fraud", "features", "--sql").stdout
    assert all(feature in sql for feature in FEATURES)
    assert duckdb.extract_statements(sql)


def test_file_that_breaks_its_contract_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(
        "transaction_id,event_timestamp,customer_id,terminal_id,amount,is_fraud\n"
        "t-1,2026-01-05T10:00:00Z,c-1,m-1,10.00,0\nt-2,2026-01-05T10:00:00Z,c-1,m-1,-3,0\n"
    )
    done = whiteboard("--home", str(tmp_path), "fraud", "ingest", "--transactions", str(file))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    said = " ".join(done.stderr.split())
    assert "column 'amount', row 2: found '-3', expected a number from 0 to 1,000,000. Nothing was loaded." in said


def test_without_a_broker_ingest_says_how_to_get_one(tmp_path: Path) -> None:
    file = tmp_path / "good.csv"
    file.write_text(
        "transaction_id,event_timestamp,customer_id,terminal_id,amount,is_fraud\n"
        "t-1,2026-01-05T10:00:00Z,c-1,m-1,10.00,\n"
    )
    done = whiteboard("--home", str(tmp_path), "fraud", "ingest", "--transactions", str(file))
    assert done.returncode == 1
    assert "WHITEBOARD_KAFKA_BOOTSTRAP" in done.stderr
