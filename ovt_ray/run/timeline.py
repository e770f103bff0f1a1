"""The timeline of a run: the activity of every actor, as a file that chrome://tracing and ui.perfetto.dev open.

`timeline.json` is in the Trace Event format: an array with an event a line. The closing bracket is missing, and neither program needs it.
So a step is appended, the file of a killed run opens, and a run that goes on appends to it. Each actor is a process. Each span is a
complete event ("X") with the stage and the step in which it was taken. Times are microseconds since the epoch.

An actor's times come from the clock of its own host. NTP keeps the clocks of different hosts within milliseconds. Busy shares follow from
lengths alone and do not depend on clocks.

On a GPU, kernels run after the calls that start them. A rank's `update` has its true length, while `forward` and `backward` only measure
the calls.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovt_ray.core.files import drop_torn_end
from ovt_ray.core.spans import ActorSpans, Span

TIMELINE_FILE = "timeline.json"
BUSY = {"rollout_busy": ("rollout worker", {"generate"}), "learner_busy": ("learner rank", {"update", "logprobs"})}
"""Kind of actor and names of the spans that count, for each share. None of these spans lies within another."""


class Timeline:
    """Appends the activity of one stage."""

    def __init__(self, run_dir: Path, stage: str) -> None:
        self._path = run_dir / TIMELINE_FILE
        self._stage = stage
        drop_torn_end(self._path)
        if not self._path.exists():
            run_dir.mkdir(parents=True, exist_ok=True)
            self._path.write_text("[\n")
        self._named: set[str] = set()

    def add(self, step: int, actors: Sequence[ActorSpans]) -> None:
        """Append the spans of the actors. An actor's place numbers its process, so it has to be the same each time."""
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
    """Return the shares of a number of seconds in which workers generated and ranks learned: means over the actors of a kind, if any."""
    shares = {}
    for figure, (kind, names) in BUSY.items():
        busy = [sum(span.end - span.start for span in one.spans if span.name in names) for one in actors if one.kind == kind]
        if busy:
            shares[figure] = min(1.0, sum(busy) / len(busy) / seconds)
    return shares


def _about(what: str, number: int, value: Mapping[str, object]) -> Mapping[str, object]:
    return {"name": what, "ph": "M", "pid": number, "tid": 0, "args": value}


def _event(span: Span, number: int, stage: str, step: int) -> Mapping[str, object]:
    start, end = round(1e6 * span.start), round(1e6 * span.end)  # both ends are rounded, so that a span within another stays within it
    return {"name": span.name, "ph": "X", "ts": start, "dur": end - start, "pid": number, "tid": 0, "args": {"stage": stage, "step": step}}
