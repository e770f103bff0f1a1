"""Where a training loop tells what happened in a step: metrics on the disk and progress on the screen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from ovt_ray.metrics import MetricsLog
from ovt_ray.progress import Progress


class Track:
    """One stage's steps, recorded and shown; use it in a `with` statement."""

    def __init__(self, run_dir: Path, stage: str, num_steps: int, first_step: int) -> None:
        self._metrics = MetricsLog(run_dir, stage, first_step)
        self._progress = Progress(stage, num_steps, first_step=first_step)

    def __enter__(self) -> Self:
        self._progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.__exit__(*error)
        self._metrics.close()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Record and show the figures of one finished step, counted from 0."""
        self._metrics.log(step, values)
        self._progress.step(step, values)
