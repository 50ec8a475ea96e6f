"""What every drill looks at when its fault is over: answers, deadline, log and lake, parity, quality.

    judge(stage, plan, traffic, outcome, fault, over)     adds its checks to the outcome

It waits until what was answered has come through to the lake: "nothing is lost" is about that.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from itertools import groupby
from typing import Any

import numpy as np

from whiteboard.drills.outcome import Moment, Outcome, Plan
from whiteboard.drills.stage import Stage, first_day
from whiteboard.drills.traffic import UNAVAILABLE, Reply, Traffic
from whiteboard.errors import ProcessError
from whiteboard.processes import wait_until
from whiteboard.skew import Skew

DEADLINE_MS = 100.0  # for whatever a request waits for
BIN_S = 0.5


def judge(
    stage: Stage, plan: Plan, traffic: Traffic, outcome: Outcome, fault: Moment, over: Moment, *, doubled: int = 0
) -> None:
    """Adds to `outcome` what all drills promise, for the traffic that has ended; `doubled` records may stand twice.

    The time line and the quality between `fault` and `over` are added too.
    """
    during = traffic.between(fault, over)
    answers(traffic.replies, outcome)
    deadline(during, plan, outcome)
    once(stage, plan, traffic.replies, outcome, doubled)
    parity(stage, plan, sum(reply.ok for reply in traffic.replies), outcome)
    outcome.quality = stage.quality(during)
    outcome.moments, outcome.series = traffic.moments, series(traffic.replies)


def recovered(traffic: Traffic, plan: Plan, outcome: Outcome, over: Moment) -> None:
    """Waits until answers are sound again after `over`, and adds how long it took."""
    took_s = traffic.until(lambda: traffic.sound_since(over.at_s), plan.recovery_s)
    traffic.note("sound again" if took_s is not None else "given up")
    seen = f"after {took_s:.1f} s" if took_s is not None else f"not within {plan.recovery_s:.0f} s"
    outcome.check("sound answers again, by itself", seen, took_s is not None)
    traffic.go_on(plan.after_s)


def answers(replies: list[Reply], outcome: Outcome) -> None:
    """Every request is answered: 200, or 503 with the time after which to come again."""
    unanswered = [r for r in replies if not r.ok and not (r.status == UNAVAILABLE and r.retry_after)]
    refused = sum(r.status == UNAVAILABLE for r in replies)
    example = f"; {unanswered[0].status} {unanswered[0].error[:80]}" if unanswered else ""
    seen = f"{len(unanswered)} of {len(replies):,}{f', {refused:,} refused' if refused else ''}{example}"
    outcome.check("requests without an answer", seen, not unanswered)


def deadline(replies: list[Reply], plan: Plan, outcome: Outcome) -> None:
    """No answer hangs past its deadline, as the service counts it; what clients saw is reported beside it."""
    served = [r.body["latency_ms"] for r in replies if r.ok]
    if not served:
        outcome.check("slowest answer", "there was none", None)
        return
    worst, late = max(served), sum(ms > DEADLINE_MS + plan.slack_ms for ms in served)
    p50, p99 = np.percentile([r.latency_ms for r in replies if r.ok], [50, 99])
    seen = f"{worst:.0f} ms within the service; clients saw p50 {p50:.1f} ms, p99 {p99:.1f} ms"
    outcome.check("slowest answer", seen, late <= plan.late_share * len(served))


def once(stage: Stage, plan: Plan, replies: list[Reply], outcome: Outcome, doubled: int) -> None:
    """What was answered is in the lake, once, and in order by key."""
    answered = [r for r in replies if r.ok]
    wanted = {str(r.about[stage.key]) for r in answered}
    since = first_day(answered)
    found: dict[str, dict[str, int]] = {}

    def arrived() -> bool:
        found.update({topic: stage.lake_counts(topic, since) for topic in stage.recorded})
        return all(wanted <= counts.keys() for counts in found.values())

    with suppress(ProcessError):  # counted below
        wait_until(arrived, "all that was answered is in the lake", plan.recovery_s, every_s=0.25)
    lost = Counter({topic: len(wanted - counts.keys()) for topic, counts in found.items()})
    twice = Counter({topic: sum(counts[key] > 1 for key in wanted & counts.keys()) for topic, counts in found.items()})
    outcome.check("answered but not in the lake", f"{max(lost.values())} of {len(wanted):,}", not lost.total())
    allowed = f", at most {doubled} that were under way" if doubled else ""
    outcome.check("in the lake more than once", f"{max(twice.values())}{allowed}", max(twice.values()) <= doubled)
    wrong = disorder(answered, stage.log_order(since), stage.key, stage.entity)
    outcome.check("out of order within a key", f"{wrong}", wrong == 0)


def disorder(answered: Iterable[Reply], order: list[str], key: str, entity: str) -> int:
    """How many records stand in the log behind one that was asked for only after they were answered.

    Records of one entity answered by one replica; those under way at the same time may stand in either order.
    """
    places = {name: place for place, name in reversed(list(enumerate(order)))}  # of several, the first
    known = [r for r in answered if str(r.about[key]) in places and r.tries == 1]
    lanes = sorted(known, key=lambda r: (r.replica, str(r.about[entity]), places[str(r.about[key])]))
    wrong = 0
    for _, lane in groupby(lanes, key=lambda r: (r.replica, str(r.about[entity]))):
        latest_sent_s = float("-inf")
        for reply in lane:
            wrong += reply.answered_s < latest_sent_s
            latest_sent_s = max(latest_sent_s, reply.sent_s)
    return wrong


def parity(stage: Stage, plan: Plan, answered: int, outcome: Outcome) -> None:
    """Every answer's features are those that the lake gives at the watermarks that it logged."""
    total = Skew()

    def compared() -> bool:
        nonlocal total
        total += stage.parity()
        return total.compared + total.degraded + total.lost >= answered

    with suppress(ProcessError):  # counted below
        wait_until(compared, "every answer was compared", plan.recovery_s, every_s=0.5)
    looked_at = total.compared + total.degraded + total.lost
    extra = f"; {total.lost} had read what died with the broker" if total.lost else ""
    seen = f"{total.mismatched} of {total.compared:,} recomputed, {total.degraded:,} were degraded{extra}"
    outcome.check("features differ offline", seen, total.mismatched == 0 and looked_at >= answered)


def series(replies: list[Reply]) -> list[dict[str, Any]]:
    """The load by half seconds of when requests were due: p50_ms, p99_ms, shares of errors, refusals, degraded."""
    bins: dict[int, list[Reply]] = {}
    for reply in replies:
        bins.setdefault(int(reply.due_s / BIN_S), []).append(reply)
    found = []
    for number, part in sorted(bins.items()):
        latencies = [r.latency_ms for r in part if r.ok]
        p50, p99 = np.percentile(latencies, [50, 99]) if latencies else (None, None)
        found.append(
            {
                "at_s": number * BIN_S,
                "requests": len(part),
                "p50_ms": None if p50 is None else round(float(p50), 2),
                "p99_ms": None if p99 is None else round(float(p99), 2),
                "degraded": sum(r.degraded for r in part) / len(part),
                "refused": sum(r.status == UNAVAILABLE for r in part) / len(part),
                "failed": sum(not r.ok and r.status != UNAVAILABLE for r in part) / len(part),
            }
        )
    return found
