"""The timeline of a run: what every actor did when, as a file that chrome://tracing and ui.perfetto.dev open.

`timeline.json` is in the Trace Event format: an array, an event a line, and without its end, which neither program asks for. So a step is
appended, the file of a killed run opens, and a run that goes on appends to it. Each actor is a process, each span a complete event ("X")
with the stage and the step in which it was taken; times are microseconds since the epoch.

An actor's times are those of its own host, so spans of different hosts stand to each other as their clocks do, which NTP keeps within
milliseconds; busy shares are made of lengths alone and do not depend on it. On a GPU kernels run behind the calls that start them: a
rank's `update` is as long as it took, `forward` and `backward` are what it took to ask for them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovt_ray.core.files import drop_torn_end
from ovt_ray.core.spans import ActorSpans, Span

TIMELINE_FILE = "timeline.json"
BUSY = {"rollout_busy": ("rollout worker", {"generate"}), "learner_busy": ("learner rank", {"update", "logprobs"})}
"""Of each share the kind of actor, and its spans that count. They are not within one another."""


class Timeline:
    """Appends what is done in one stage."""

    def __init__(self, run_dir: Path, stage: str) -> None:
        self._path = run_dir / TIMELINE_FILE
        self._stage = stage
        drop_torn_end(self._path)
        if not self._path.exists():
            run_dir.mkdir(parents=True, exist_ok=True)
            self._path.write_text("[\n")
        self._named: set[str] = set()

    def add(self, step: int, actors: Sequence[ActorSpans]) -> None:
        """Append what the actors did; each is a process numbered by its place among them, which has to be the same each time."""
        events: list[Mapping[str, object]] = []
        for number, one in enumerate(actors, start=1):
            name = f"{one.kind} {one.number}"
            if name not in self._named:
                self._named.add(name)
                events += [_about("process_name", number, {"name": name}), _about("process_sort_index", number, {"sort_index": number})]
            events += [_event(span, number, self._stage, step) for span in sorted(one.spans, key=lambda span: (span.start, -span.end))]
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(event) + ",\n" for event in events)


def busy_shares(actors: Sequence[ActorSpans], seconds: float) -> dict[str, float]:
    """Return the shares of so many seconds in which workers generated and ranks learned, means over the actors; none without any."""
    shares = {}
    for figure, (kind, names) in BUSY.items():
        busy = [sum(span.end - span.start for span in one.spans if span.name in names) for one in actors if one.kind == kind]
        if busy:
            shares[figure] = min(1.0, sum(busy) / len(busy) / seconds)
    return shares


def _about(what: str, number: int, value: Mapping[str, object]) -> Mapping[str, object]:
    return {"name": what, "ph": "M", "pid": number, "tid": 0, "args": value}


def _event(span: Span, number: int, stage: str, step: int) -> Mapping[str, object]:
    start, end = round(1e6 * span.start), round(1e6 * span.end)  # ends are rounded too: what lies within another still does
    return {"name": span.name, "ph": "X", "ts": start, "dur": end - start, "pid": number, "tid": 0, "args": {"stage": stage, "step": step}}
