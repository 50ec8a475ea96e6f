"""The same requests as `whiteboard load`, for those who prefer Locust's web page.

    make .venv/.synced-all
    .venv/bin/locust -f bench/locustfile.py Payments --host http://127.0.0.1:8001          page: http://127.0.0.1:8089
    .venv/bin/locust -f bench/locustfile.py Feed --host http://127.0.0.1:8002 --headless -u 20 -r 20 -t 30s

Locust's users wait for their answers (a closed loop with pauses): where the service stalls, they stop asking, and what
they would have waited is in no percentile. For latency under a given load use `whiteboard load`.
`WHITEBOARD_HOME` says whose world the payments and users are of; `WHITEBOARD_API_KEY` is sent as x-api-key.
"""

import itertools
import os
from functools import cache
from typing import Any

from locust import FastHttpUser, constant_throughput, task

from whiteboard.fraud.load import FraudPayments
from whiteboard.load import Call, Traffic
from whiteboard.recommendation.load import RecommendationUsers
from whiteboard.settings import Settings

NUMBERS = itertools.count()  # of this process; what is sent has a prefix that is new every time
EACH_PER_S = 10  # requests a second of one user, if answers are fast enough


@cache
def payments() -> Traffic:
    """Of the world of WHITEBOARD_HOME."""
    return FraudPayments.of(Settings())


@cache
def users() -> Traffic:
    """Of the world of WHITEBOARD_HOME."""
    return RecommendationUsers.of(Settings())


class _Whiteboard(FastHttpUser):
    abstract = True
    wait_time = constant_throughput(EACH_PER_S)

    def send(self, call: Call) -> bytes | None:
        """The answer's body; None if it failed, which Locust has counted."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("WHITEBOARD_API_KEY"):
            headers["x-api-key"] = key
        name = f"{call.method} {call.path.partition('?')[0]}"
        answer: Any = self.client.request(call.method, call.path, name, call.body or None, headers=headers)
        return answer.content if answer.ok else None


class Payments(_Whiteboard):
    """Card payments to the fraud service."""

    @task
    def decide(self) -> None:
        """One payment."""
        self.send(payments().call(next(NUMBERS)))


class Feed(_Whiteboard):
    """Users of the recommendation service, who look at their lists and click."""

    @task
    def ask(self) -> None:
        """One list, and what the user does with it."""
        call = users().call(next(NUMBERS))
        body = self.send(call)
        if body is not None and (follow_up := users().follow_up(call, body)) is not None:
            self.send(follow_up)
