"""The recorder of a stage's steps: metrics and a timeline on the disk, progress on the screen."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from ovt_ray.core.spans import ActorSpans, Span, SpanLog
from ovt_ray.run.metrics import MetricsLog
from ovt_ray.run.progress import Progress
from ovt_ray.run.timeline import Timeline, busy_shares


def no_actors() -> Sequence[ActorSpans]:
    """Return no spans, for loops whose services are not actors."""
    return ()


class Recorder:
    """One stage's steps, recorded and shown; use it in a `with` statement."""

    def __init__(
        self,
        run_dir: Path,
        stage: str,
        *,
        num_steps: int,
        first_step: int,
        take_spans: Callable[[], Sequence[ActorSpans]] = no_actors,
    ) -> None:
        """`take_spans` returns each actor's spans since the last call; spans from before this stage's steps are recorded too."""
        self._metrics = MetricsLog(run_dir, stage, first_step)
        self._progress = Progress(stage, num_steps, first_step=first_step)
        self._timeline = Timeline(run_dir, stage)
        self._take_spans = take_spans
        self._log = SpanLog()
        self._phases: list[Span] = []
        """Spans of the phases of this step that have ended."""
        self._recorded_at = time.monotonic()
        self._record(first_step)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)
        self._metrics.close()

    def begin(self, phase: str) -> None:
        """Note that the driver begins a phase of the step; it ends with the next phase or with the step."""
        self._log.switch(phase)

    def end_phases(self) -> Mapping[str, float]:
        """End the phase that runs, and return the seconds of each phase of this step."""
        self._log.switch(None)
        self._phases += self._log.take()
        seconds: dict[str, float] = {}
        for span in self._phases:
            seconds[span.name] = seconds.get(span.name, 0.0) + span.end - span.start
        return seconds

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Record and show the figures of a finished step, counted from 0, and the busy shares of the actors since the step before."""
        self.end_phases()
        figures = {**values, **self._record(step)}
        self._metrics.log(step, figures)
        self._progress.step(step, figures)

    def _record(self, step: int) -> Mapping[str, float]:
        """Put the spans since the last call into the timeline, and return the busy shares of the actors in that time."""
        actors = self._take_spans()
        driver = ActorSpans(kind="driver", number=0, spans=tuple(self._phases))
        self._phases.clear()
        self._timeline.add(step, [driver, *actors])
        since, self._recorded_at = self._recorded_at, time.monotonic()
        return busy_shares(actors, self._recorded_at - since)
