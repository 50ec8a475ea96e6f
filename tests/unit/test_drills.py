"""Drills without a stage: what counts as out of order, what load shows, how a client goes on when a replica dies."""

import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from whiteboard.cli import app
from whiteboard.drills.catalogue import DRILLS
from whiteboard.drills.judge import answers, deadline, disorder, series
from whiteboard.drills.outcome import Check, Drill, Moment, Outcome, Plan, Quality
from whiteboard.drills.page import write
from whiteboard.drills.timeline import timeline
from whiteboard.drills.traffic import Ask, Reply, Traffic
from whiteboard.processes import free_port


def reply(number: int, sent_s: float, answered_s: float, **changes: Any) -> Reply:
    about = {"transaction_id": f"t-{number}", "customer_id": "c-1"}
    values = {"status": 200, "tries": 1, "sent_s": sent_s, "answered_s": answered_s, "latency_ms": 5.0}
    return Reply(about, sent_s, **{**values, **changes})


def wrong(replies: list[Reply], *order: str) -> int:
    return disorder(replies, list(order), "transaction_id", "customer_id")


def test_record_behind_one_that_was_asked_for_after_its_answer_is_out_of_order() -> None:
    first, second = reply(1, 0.0, 0.1), reply(2, 0.2, 0.3)
    assert wrong([first, second], "t-1", "t-2") == 0
    assert wrong([first, second], "t-2", "t-1") == 1


def test_order_counts_before_the_drills_own_traffic_began_too() -> None:
    first, second = reply(1, -0.4, -0.3), reply(2, -0.2, -0.1)
    assert wrong([first, second], "t-1", "t-2") == 0
    assert wrong([first, second], "t-2", "t-1") == 1


def test_requests_under_way_together_may_stand_in_either_order() -> None:
    together = [reply(1, 0.0, 0.3), reply(2, 0.2, 0.4)]
    assert wrong(together, "t-1", "t-2") == wrong(together, "t-2", "t-1") == 0


def test_order_is_kept_by_replica() -> None:
    assert wrong([reply(1, 0.0, 0.1, replica=0), reply(2, 0.2, 0.3, replica=1)], "t-2", "t-1") == 0


def test_a_refusal_that_says_when_to_come_again_is_an_answer_and_one_that_does_not_is_none() -> None:
    outcome = Outcome()
    answers([reply(1, 0, 1), reply(2, 0, 1, status=503, retry_after="1")], outcome)
    answers([reply(1, 0, 1), reply(2, 0, 1, status=503, retry_after=None)], outcome)
    answers([reply(1, 0, 1), reply(2, 0, 1, status=0, error="reset")], outcome)
    assert [check.kept for check in outcome.checks] == [True, False, False]


@pytest.mark.parametrize(("latency_ms", "kept"), [(180.0, True), (220.0, False)])
def test_answer_counts_as_late_beyond_deadline_and_slack(latency_ms: float, kept: bool) -> None:
    outcome = Outcome()
    deadline([reply(1, 0, 1, body={"latency_ms": latency_ms})], Plan(slack_ms=100), outcome)
    assert [check.kept for check in outcome.checks] == [kept]


def test_load_is_told_by_half_seconds_of_when_requests_were_due() -> None:
    load = [reply(1, 0.1, 9.0, body={"degraded": True}), reply(2, 0.4, 9.0), reply(3, 0.6, 9.0, status=503)]
    assert [(b["at_s"], b["requests"], b["degraded"], b["refused"]) for b in series(load)] == [
        (0.0, 2, 0.5, 0.0),
        (0.5, 1, 0.0, 1.0),
    ]
    assert series(load)[1]["p99_ms"] is None, "nothing was answered"


def test_cost_is_what_quality_lacks_and_unknown_without_positives() -> None:
    assert Quality("nDCG", 0.25, 0.75, 100, 10, 50).cost == 0.5
    nothing = Quality("nDCG", None, None, 100, 0, 50)
    assert nothing.cost is None and "undefined" in str(nothing)


def outcome() -> Outcome:
    load = [reply(i, i / 10, i / 10 + 0.01) for i in range(40)]
    return Outcome([Check("answered", "40 of 40", True)], Quality("nDCG", 0.2, 0.7, 40, 9, 40),
                   [Moment(1.0, "<the store> fails")], series(load))  # fmt: skip


def test_timeline_shows_latency_and_what_happened_and_escapes_it() -> None:
    svg = timeline(outcome().series, outcome().moments)
    assert svg.count('class="line') == 2
    assert "&lt;the store&gt; fails" in svg and "<the store>" not in svg


def test_timeline_of_nothing_is_empty_axes() -> None:
    assert timeline([], []).startswith("<svg")


def test_results_and_page_stand_beside_each_other(tmp_path: Path) -> None:
    drill = Drill("store-down", "a fault", "a promise", run=lambda *_: outcome())
    broken = Outcome([Check("answered", "39 of 40", False)])
    page = write(tmp_path / "results.json", [(drill, outcome()), (drill, broken)], "whiteboard drill all")
    assert "39 of 40" in page.read_text() and "A promise was broken: store-down" in page.read_text()
    found = json.loads((tmp_path / "results.json").read_text())["drills"]["store-down"]
    assert (found["kept"], found["promise"]) == (False, "a promise")


def test_every_drill_is_listed_with_its_promise() -> None:
    listed = CliRunner().invoke(app, ["drill", "list"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0
    assert all(name in listed.output for name in DRILLS)


def test_unknown_drill_is_refused_with_those_that_exist() -> None:
    refused = CliRunner().invoke(app, ["drill", "comet"], env={"COLUMNS": "400"})
    assert refused.exit_code == 2
    assert "comet" in refused.output and "store-down" in refused.output


class Replica(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = 503 if b"refuse" in body else 200
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def asks(*texts: str) -> Iterator[Ask]:
    endless = (f"more-{i}" for i in count())
    for text in chain(texts, endless):
        yield Ask("POST", "/v1/decisions", json.dumps({"text": text}).encode(), {"text": text})


def test_request_whose_replica_is_gone_is_answered_by_another() -> None:
    with serving() as port, Traffic([free_port(), port], asks(), rate=100) as traffic:
        assert traffic.until(lambda: len(traffic.replies) >= 10, 10) is not None
    assert all(r.ok and r.replica == 1 for r in traffic.replies)
    assert max(r.tries for r in traffic.replies) >= 2


def test_nothing_is_sent_during_a_rest() -> None:
    endless = asks()
    with serving() as port, Traffic([port], endless, rate=200) as traffic:
        assert traffic.until(lambda: len(traffic.replies) >= 3, 10) is not None
        traffic.rest()
        taken = next(endless)  # nobody else takes from it now
        seen = traffic.note("rests").at_s
        traffic.wake()
        assert traffic.until(lambda: traffic.replies[-1].due_s > seen, 10) is not None
    texts = [r.about["text"] for r in traffic.replies]
    assert taken.about["text"] not in texts and len(set(texts)) == len(texts)


def test_refusal_is_an_answer_and_not_tried_again() -> None:
    with serving() as port, Traffic([port], asks("refuse me"), rate=100) as traffic:
        assert traffic.until(lambda: len(traffic.replies) >= 2, 10) is not None
    refused = next(r for r in traffic.replies if r.about["text"] == "refuse me")
    assert (refused.status, refused.tries, refused.retry_after) == (503, 1, "1")


def test_latency_counts_from_when_a_request_was_due() -> None:
    deaf = socket.create_server(("127.0.0.1", 0))  # takes connections and never answers
    with closing(deaf), Traffic([deaf.getsockname()[1]], asks(), rate=50, timeout_s=0.2) as traffic:
        assert traffic.until(lambda: len(traffic.replies) >= 5, 10) is not None
    assert all(r.status == 0 and "no answer" in r.error and r.latency_ms >= 190 for r in traffic.replies)
