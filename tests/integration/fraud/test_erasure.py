"""One customer is erased from a home that lives: nothing of them stays, and nobody else notices."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from pipelines.fraud.dataset import Dataset, build
from services.fraud.app import rows_reader
from services.fraud.scoring import Rows, score
from services.stream.worker import SYSTEMS, StreamWorker
from tests.conftest import WaitUntil
from tests.persons import holding
from whiteboard.embedded import EmbeddedStack
from whiteboard.erase import erase
from whiteboard.eventlog import EventProducer, create_topics
from whiteboard.featurestore import FeatureStore
from whiteboard.fraud.decision import Thresholds
from whiteboard.fraud.events import DECISIONS, LABELS, SCHEMAS, TRANSACTIONS, Decision, Label, Transaction
from whiteboard.fraud.features import FEATURES, TERMINAL_FOLD
from whiteboard.fraud.ingest import ingest
from whiteboard.fraud.monitor import FraudMonitor
from whiteboard.fraud.privacy import CUSTOMER
from whiteboard.fraud.reasons import Reason
from whiteboard.fraud.routes import CUSTOMER_VIEW, ROUTES, TERMINAL_VIEW
from whiteboard.fraud.world import WorldConfig, simulate
from whiteboard.hotswap import Loaded
from whiteboard.lake import Lake, connect
from whiteboard.settings import Settings
from whiteboard.streams import rebuild_if_log_is_new
from whiteboard.windows import Row

PERSON = "customer-who-wants-to-be-forgotten"
THEIRS = "payment-of-that-customer"
WORLD = WorldConfig(customers=40, terminals=12, days=16, seed=5, label_delay_days=2.0)
KINDS: dict[str, Any] = {TRANSACTIONS: Transaction, LABELS: Label, DECISIONS: Decision}


@dataclass
class Model:
    """Says that a payment is a fraud in the measure of its amount."""

    features: tuple[str, ...] = FEATURES
    thresholds: Thresholds = field(default_factory=lambda: Thresholds(review=0.5, decline=0.9))

    def predict_one(self, values: list[float]) -> float:
        return min(0.99, values[FEATURES.index("amount")] / 1000)

    def reasons(self, values: list[float], k: int = 3) -> list[Reason]:
        return []


@dataclass
class Home:
    """Broker, a worker in a thread, and payments that are decided as the service does."""

    settings: Settings
    wait_until: WaitUntil
    payments: pd.DataFrame
    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def work(self) -> Callable[[], None]:
        """Starts a worker; the function that stops it."""
        stop, worker = threading.Event(), StreamWorker(self.settings, SYSTEMS["fraud"])
        thread = threading.Thread(target=worker.run, args=[stop])
        thread.start()

        def end() -> None:
            stop.set()
            thread.join()
            worker.close()

        return end

    def decide(self, rows: pd.DataFrame) -> None:
        read, model = rows_reader(self.settings).read, cast(Any, Loaded("1", Model()))
        with EventProducer(self.settings, "test", SCHEMAS) as producer:
            for row in rows.to_dict("records"):
                payment = Transaction(
                    **{name: row[name] for name in ("transaction_id", "customer_id", "terminal_id", "amount")},
                    event_timestamp=row["event_timestamp"].to_pydatetime(),
                )
                customer, terminal = read([(CUSTOMER_VIEW, payment.customer_id), (TERMINAL_VIEW, payment.terminal_id)])
                rows_read = Rows(customer, terminal, "current")
                decision, _ = score(payment, rows_read, model, None, 0.0, time.perf_counter())
                for topic, event in ((TRANSACTIONS, payment), (DECISIONS, decision)):
                    producer.send(topic, event, key=payment.customer_id, trace=payment.customer_id)
                    self.sent[topic] += 1
            producer.flush()
        self.settle()

    def settle(self) -> None:
        """Until the lake covers all that was sent, which is after its rows were pushed."""
        lake = Lake(self.settings.lake_dir)
        self.wait_until(
            lambda: all(sum(lake.coverage(topic).values()) >= n for topic, n in self.sent.items()),
            message="in the lake",
        )

    def judge(self) -> tuple[int, int]:
        """Decisions compared with what the lake gives now, all of them, and how many differed."""
        shutil.rmtree(self.settings.monitor_dir, ignore_errors=True)
        monitor = FraudMonitor(self.settings, settle_s=0)
        monitor.work(close_last=True)
        parity = [window["parity"] for window in monitor.windows]
        return sum(p["compared"] for p in parity), sum(p["mismatched"] for p in parity)

    def count(self, topic: str, where: str = "true") -> int:
        with connect() as connection:
            relation = Lake(self.settings.lake_dir).relation(topic, KINDS[topic])
            return int(connection.sql(f"SELECT count(*) FROM {relation} WHERE {where}").fetchall()[0][0])

    def terminals(self) -> dict[str, dict[str, float]]:
        """Each terminal's features at the end of the world, from the online store."""
        at = int(self.payments["event_timestamp"].max().value // 1000)
        ids = sorted(self.payments["terminal_id"].unique())
        states = FeatureStore(self.settings).states("fraud_terminal").read(ids)
        return {i: TERMINAL_FOLD.values(TERMINAL_FOLD.decode(s), at) for i, s in zip(ids, states, strict=True)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, wait_until: WaitUntil) -> Iterator[Home]:
    """A history, live payments, a training set, scores, an export, a monitor's windows, a log; and a busy customer."""
    folder = tmp_path_factory.mktemp("home")
    world = simulate(WORLD).transactions
    busiest = world["customer_id"].mode().iloc[0]
    theirs = world["customer_id"] == busiest
    world.loc[theirs, "customer_id"] = PERSON
    world.loc[theirs, "transaction_id"] = [f"{THEIRS}-{n}" for n in range(int(theirs.sum()))]
    with EmbeddedStack(Settings(home=folder)) as stack:
        settings = stack.start_broker()
        create_topics(settings)
        FeatureStore.apply(settings)
        home = Home(settings, wait_until, world)
        end = home.work()
        try:
            past = world[world["event_timestamp"] < world["event_timestamp"].max() - pd.Timedelta(days=2)]
            done = ingest(settings, past, until=past["event_timestamp"].max())
            home.sent |= {TRANSACTIONS: done.transactions, LABELS: done.labels}
            home.settle()
            home.decide(world[~world["transaction_id"].isin(past["transaction_id"])].iloc[:150])
            traces_of_them(settings)
            yield home
        finally:
            end()


def traces_of_them(settings: Settings) -> None:
    """What pipelines and processes leave behind."""
    build(settings).save(settings.home / "training" / "fraud" / "2026-01-01")
    scores = settings.lake_dir / "fraud.scores" / "date=2026-01-05" / "version-1.parquet"
    scores.parent.mkdir(parents=True)
    pd.DataFrame({"customer_id": [PERSON, "c-1"], "fraud_probability": [0.1, 0.2]}).to_parquet(scores)
    settings.logs_dir.mkdir(exist_ok=True)
    settings.report_dir.mkdir(exist_ok=True)
    (settings.logs_dir / "old.log").write_text(f'{{"message": "KeyError: {PERSON}", "transaction": "{THEIRS}-1"}}\n')
    (settings.report_dir / "results.json").write_text(f'{{"touched": ["c-1", "{PERSON}"], "rows": 12}}')


def test_one_customer_is_erased_and_nobody_else_notices(home: Home) -> None:
    settings = home.settings
    before = home.judge()
    assert before[0] > 100 and before[1] == 0
    others = {topic: home.count(topic, f"customer_id <> '{PERSON}'") for topic in KINDS}
    theirs = {topic: home.count(topic, f"customer_id = '{PERSON}'") for topic in KINDS}
    assert min(theirs.values()) > 0
    coverage = {topic: Lake(settings.lake_dir).coverage(topic) for topic in KINDS}
    terminals = home.terminals()
    assert {path.partition("/")[0] for path in holding(settings.home, PERSON)} == {
        "feast", "lake", "training", "logs", "report",
    }  # fmt: skip

    def killed(done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        erase(settings, ROUTES, CUSTOMER, PERSON, killed)
    assert holding(settings.home, PERSON), "half of it is left"
    done = erase(settings, ROUTES, CUSTOMER, PERSON)

    assert holding(settings.home, PERSON) == {}
    assert holding(settings.home, THEIRS) == {}
    assert "Kafka" in done.remains and done.as_dict()["places"]
    assert {topic: home.count(topic) for topic in KINDS} == others
    assert {topic: Lake(settings.lake_dir).coverage(topic) for topic in KINDS} == coverage
    assert home.terminals() == terminals
    compared, mismatched = home.judge()
    assert (compared, mismatched) == (before[0] - theirs[DECISIONS], 0), "others' decisions are still explained"
    training = Dataset.load(settings.home / "training" / "fraud" / "2026-01-01")
    assert len(training) > 100 and PERSON not in set(training.frame["customer_id"])
    assert '"rows": 12' in (settings.report_dir / "results.json").read_text()
    assert sum(place.removed + place.kept for place in erase(settings, ROUTES, CUSTOMER, PERSON).places.values()) == 0


def test_their_past_does_not_come_back_and_the_stack_goes_on(home: Home) -> None:
    settings = home.settings
    erase(settings, ROUTES, CUSTOMER, PERSON)
    end = datetime.now(UTC)
    rest = home.payments.iloc[-40:].assign(transaction_id=[f"late-{n}" for n in range(40)])
    before, terminals = home.count(TRANSACTIONS), home.terminals()
    again = ingest(settings, home.payments[home.payments["customer_id"] == PERSON], until=pd.Timestamp(end))
    assert (again.transactions, again.labels) == (0, 0), "a repeated ingest leaves them out"
    home.decide(rest.assign(customer_id=PERSON))  # a replay: their past once more in the log
    assert (home.count(TRANSACTIONS), home.count(DECISIONS, f"customer_id = '{PERSON}'")) == (before, 0)
    assert holding(settings.home, PERSON) == {}
    assert FeatureStore(settings).states("fraud_customer").read([PERSON]) == [None]
    assert home.terminals() != terminals, "it counts for its terminals"
    home.decide(rest.assign(customer_id="c-7", transaction_id=[f"other-{n}" for n in range(40)]))
    assert home.count(TRANSACTIONS) == before + 40
    assert home.judge()[1] == 0

    now = pd.Timestamp.now("UTC") + timedelta(seconds=1)
    back = rest.assign(customer_id=PERSON, event_timestamp=now, transaction_id=[f"back-{n}" for n in range(40)])
    back = back.assign(terminal_id="m-new")
    home.decide(back)
    assert home.count(TRANSACTIONS, f"customer_id = '{PERSON}'") == 40, "a new acquaintance"


def test_rows_that_are_rebuilt_from_the_lake_count_what_is_nobodys(home: Home) -> None:
    """As after a broker that forgot its log: terminals as before, and no row of the person's past."""
    settings = home.settings
    erase(settings, ROUTES, CUSTOMER, PERSON)
    home.settle()
    before = home.terminals()
    new = dict.fromkeys(ROUTES.topics, "another log")
    store = FeatureStore(settings)
    assert rebuild_if_log_is_new(ROUTES, Lake(settings.lake_dir), store, new)
    assert home.terminals() == before
    assert store.states("fraud_customer").read(["~erased~"]) == [None]


def test_rows_in_another_format_are_made_anew_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an upgrade: the log is the same one, and what stands in the store is newer than what the lake holds."""
    store, lake = FeatureStore(home.settings), Lake(home.settings.lake_dir)
    ids, before = dict.fromkeys(ROUTES.topics, "a log"), home.terminals()
    assert rebuild_if_log_is_new(ROUTES, lake, store, ids)
    store.states(TERMINAL_VIEW).push([(next(iter(before)), b"in the old format", TERMINAL_FOLD.rank(Row()) + 10**14)])
    assert not rebuild_if_log_is_new(ROUTES, lake, store, ids)
    for module in ("windows", "streams"):
        monkeypatch.setattr(f"whiteboard.{module}.FORMAT", 3)
    assert rebuild_if_log_is_new(ROUTES, lake, store, ids)
    assert home.terminals() == before
    assert not rebuild_if_log_is_new(ROUTES, lake, store, ids)


def test_an_id_that_is_a_number_spares_the_numbers_around_it(tmp_path: Path) -> None:
    (tmp_path / "windows.jsonl").write_text('{"rows": 17, "customer": "17", "day": "2026-01-17"}\n')
    erase(Settings(home=tmp_path), ROUTES, CUSTOMER, "17")
    assert (tmp_path / "windows.jsonl").read_text() == '{"rows": 17, "customer": "**", "day": "2026-01-17"}\n'
