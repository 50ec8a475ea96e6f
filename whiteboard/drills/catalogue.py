"""All drills, in the order in which `whiteboard drill all` runs them on one stage."""

from whiteboard.drills import bad_model, broker, burst, clock, poison, registry, replicas, store, workers
from whiteboard.drills.outcome import Drill

DRILLS: dict[str, Drill] = {
    drill.name: drill
    for drill in (
        *bad_model.DRILLS,  # first: its monitor has then no days to catch up on
        *store.DRILLS,
        *registry.DRILLS,
        *workers.DRILLS,
        *replicas.DRILLS,
        *poison.DRILLS,
        *clock.DRILLS,
        *broker.DRILLS,
        *burst.DRILLS,
    )
}
