"""Exports of the lake: persons by pseudonym unless somebody asks for more, joinable, in three formats."""

from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tests.persons import mentions
from whiteboard.cli import app
from whiteboard.errors import SettingsError
from whiteboard.events import Event
from whiteboard.export import export
from whiteboard.fraud.events import LABELS, TRANSACTIONS, Label, Transaction
from whiteboard.lake import Lake, table
from whiteboard.pseudonyms import pseudonyms
from whiteboard.records import Record
from whiteboard.settings import Settings

KINDS: dict[str, type[Event]] = {TRANSACTIONS: Transaction, LABELS: Label}
CUSTOMERS = ["c-1", "c-22", "c-1", "c-333"]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path / "home")
    events = [
        Transaction(
            transaction_id=f"t-{n}", event_timestamp=datetime(2026, 1, 5 + n, 12, tzinfo=UTC), customer_id=customer,
            terminal_id="m-1", amount=1.5,
        )
        for n, customer in enumerate(CUSTOMERS)
    ]  # fmt: skip
    records = [Record(TRANSACTIONS, 0, n, e.customer_id, "", e, 0, "c-1", {}) for n, e in enumerate(events)]
    days = [event.event_timestamp.date() for event in events]
    Lake(settings.lake_dir).append(TRANSACTIONS, 0, 0, 0, 3, table(records, Transaction, 0), days)
    scores = settings.lake_dir / "fraud.scores" / "date=2026-01-05" / "version-1.parquet"
    scores.parent.mkdir(parents=True)
    pd.DataFrame({"transaction_id": ["t-0"], "customer_id": ["c-1"], "fraud_probability": [0.25]}).to_parquet(scores)
    return settings


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_an_export_names_nobody_and_joins_with_others(settings: Settings, tmp_path: Path, suffix: str) -> None:
    outs = [tmp_path / "out" / f"{name}{suffix}" for name in ("transactions", "scores")]
    assert export(settings, TRANSACTIONS, outs[0], kinds=KINDS) == 4
    assert export(settings, "fraud.scores", outs[1], kinds=KINDS) == 1
    assert mentions(tmp_path / "out", set(CUSTOMERS)) == {}
    assert len(list((tmp_path / "out").iterdir())) == 2, "nothing else is left"
    if suffix == ".parquet":
        transactions, scores = (pd.read_parquet(out) for out in outs)
        pseudonym = pseudonyms(settings)
        assert transactions["customer_id"].tolist() == [pseudonym(customer) for customer in CUSTOMERS]
        assert scores["customer_id"].tolist() == [pseudonym("c-1")]
        assert transactions["terminal_id"].tolist() == ["m-1"] * 4 and "trace" not in transactions


def test_the_ids_themselves_must_be_asked_for(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    export(settings, TRANSACTIONS, out, kinds=KINDS, since=date(2026, 1, 6), identified=True)
    assert pd.read_parquet(out)["customer_id"].tolist() == CUSTOMERS[1:]


def test_a_topic_or_format_that_there_is_not_is_refused_with_those_that_there_are(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"fraud\.labels.*fraud\.scores.*fraud\.transactions"):
        export(settings, "fraud.payments", tmp_path / "out.csv", kinds=KINDS)
    with pytest.raises(SettingsError, match=r"\.xlsx"):
        export(settings, TRANSACTIONS, tmp_path / "out.xlsx", kinds=KINDS)


def test_the_command_says_how_persons_are_named(settings: Settings, tmp_path: Path) -> None:
    arguments = ["--home", str(settings.home), "privacy", "export", "--topic", TRANSACTIONS, "--out"]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "a.csv")], env={"WHITEBOARD_HOME": ""})
    assert done.exit_code == 0 and "4 rows" in done.stdout and "by pseudonym" in done.stdout
    named = CliRunner().invoke(app, [*arguments[:3], "pseudonym", "c-22"], env={"WHITEBOARD_HOME": ""})
    assert named.stdout.strip() in (tmp_path / "a.csv").read_text()
