"""What drills leave behind: results.json for programs, and one self-contained page for people beside it.

path = write(Path("results.json"), [(drill, outcome), …], "whiteboard drill all")       # …/results.html
"""

import json
from collections.abc import Sequence
from pathlib import Path

from whiteboard.drills.outcome import Drill, Outcome
from whiteboard.drills.timeline import timeline

TEMPLATES = Path(__file__).parents[1] / "templates"


def write(path: Path, done: Sequence[tuple[Drill, Outcome]], command: str) -> Path:
    """Writes `path` (JSON) and the page, whose path is returned."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    path.parent.mkdir(parents=True, exist_ok=True)
    results = {d.name: {"fault": d.fault, "promise": d.promise} | outcome.as_dict() for d, outcome in done}
    path.write_text(json.dumps({"command": command, "drills": results}, indent=2) + "\n")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    drills = [{"drill": d, "outcome": outcome, "svg": timeline(outcome.series, outcome.moments)} for d, outcome in done]
    broken = [d.name for d, outcome in done if not outcome.kept]
    page = path.with_suffix(".html")
    page.write_text(
        environment.get_template("drills.html").render(
            drills=drills, broken=broken, command=command, requests=sum(o.requests for _, o in done)
        ),
        encoding="utf-8",
    )
    return page
