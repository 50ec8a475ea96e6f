"""Records that nobody can decode, amid the load: cut off, of the wrong schema, huge, under the wrong key."""

from whiteboard.deadletters import list_dead_letters
from whiteboard.drills.judge import judge, recovered
from whiteboard.drills.outcome import Drill, Outcome, Plan
from whiteboard.drills.stage import Stage
from whiteboard.eventlog import EventProducer
from whiteboard.processes import wait_until

HUGE_BYTES = 900_000  # just below what a producer may send
KINDS = 5
EACH = 8


def poison(stage: Stage, plan: Plan) -> Outcome:
    """Bad records among good ones, on the topic that all features depend on."""
    outcome = Outcome()
    topic, good, headers = stage.sample()
    before = len(list_dead_letters(stage.settings, stage.system))
    with stage.traffic(plan) as traffic:
        traffic.go_on(plan.before_s)
        fault = traffic.note("poison is sent")
        with EventProducer(stage.settings, "drill", {}) as producer:
            for number in range(EACH):
                key = f"poison-{number}".encode()
                producer.send_raw(topic, key, good[: len(good) // 2], headers)
                producer.send_raw(topic, key, b"\x00\xff" * (HUGE_BYTES // 2), headers)
                producer.send_raw(topic, key, good, headers | {"schema": b"nobody.knows.v9"})
                producer.send_raw(topic, b"another-key", good, headers)
                producer.send_raw(topic, key, None, headers)
                traffic.go_on(plan.seconds / EACH)
        over = traffic.note("the load goes on")
        recovered(traffic, plan, outcome, over)
        wait_until(lambda: len(list_dead_letters(stage.settings, stage.system)) >= before + EACH * KINDS,
                   "the dead letters are there", plan.recovery_s, every_s=0.25)  # fmt: skip
    found = list_dead_letters(stage.settings, stage.system)[before:]
    letters = list({letter.origin: letter for letter in found}.values())  # a worker cut off buries some again
    reasons = sorted({letter.reason[:40] for letter in letters})
    seen = f"{len(letters)} of {EACH * KINDS}, for {len(reasons)} reasons"
    outcome.check("dead letters", seen, len(letters) == EACH * KINDS and all(letter.reason for letter in letters))
    judge(stage, plan, traffic, outcome, fault, over)
    caught_up = traffic.until(lambda: stage.lag() == 0, plan.recovery_s) is not None
    outcome.check("stream lag afterwards", f"{stage.lag()} records", caught_up)
    return outcome


DRILLS = (
    Drill(
        "poison",
        "records that cannot be decoded, of the wrong schema, huge, or under the wrong key",
        "dead-lettered with reason; the stream never stops",
        poison,
    ),
)
