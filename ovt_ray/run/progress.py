"""Progress of a stage: a bar in a terminal, lines in a job's log, nothing where the log is quiet."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from ovt_ray.run.results import clock_time

if TYPE_CHECKING:
    from rich.progress import Progress as RichBar

SHOWN = {
    "reward": ("reward", ".2f"),
    "accuracy": ("accuracy", ".2f"),
    "loss": ("loss", ".3f"),
    "validation_loss": ("validation", ".3f"),
    "tokens_per_s": ("tok/s", ".0f"),
}
"""Name and format of each shown figure of a step."""
SECONDS_BETWEEN_LINES = 2.0
"""Least time between two lines of a log; the first and the last step are always shown."""

logger = logging.getLogger(__name__)


class Progress:
    """Live progress of one stage's steps; use it in a `with` statement."""

    def __init__(
        self,
        stage: str,
        num_steps: int,
        *,
        first_step: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show the steps `first_step` to `num_steps - 1` of a stage; steps before `first_step` count as done, at no time."""
        self._stage = stage
        self._num_steps = num_steps
        self._first_step = first_step
        self._clock = clock
        self._first_at: float | None = None
        """Time at which the first step was done. It takes longer than the others, so they alone give the time left."""
        self._line_at: float | None = None
        self._bar = _bar(stage, num_steps, first_step) if sys.stdout.isatty() and logger.isEnabledFor(logging.INFO) else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """Show that a step (counted from 0) is done, with the figures that a person follows."""
        figures, eta = figures_text(values), self._time_left(step)
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step + 1, figures=figures, eta=eta)
        elif self._line_is_due(step):
            self._line_at = self._clock()
            words = [f"[{self._stage} {step + 1}/{self._num_steps}]", figures, f"eta {eta}"]
            logger.info(" ".join(word for word in words if word))

    def _line_is_due(self, step: int) -> bool:
        if self._line_at is None or step + 1 >= self._num_steps:
            return True
        return self._clock() - self._line_at >= SECONDS_BETWEEN_LINES

    def _time_left(self, step: int) -> str:
        if self._first_at is None:
            self._first_at = self._clock()
        num_left, num_timed = self._num_steps - step - 1, step - self._first_step
        if num_left and not num_timed:
            return "-:--"
        return clock_time((self._clock() - self._first_at) / max(1, num_timed) * num_left)


@contextmanager
def phase(text: str, *, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Log that work without steps begins ("starting 2 rollout workers"), and when it is done, with its seconds."""
    began = clock()
    logger.info("%s ...", text)
    yield
    logger.info("%s: done in %.1f s", text, clock() - began)


def figures_text(values: Mapping[str, float]) -> str:
    """Return the shown figures in a fixed order: `reward 0.61 accuracy 0.58 tok/s 5210`."""
    return " ".join(f"{label} {values[name]:{form}}" for name, (label, form) in SHOWN.items() if name in values)


def _bar(stage: str, num_steps: int, first_step: int) -> "RichBar":
    from rich import get_console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichBar

    bar = RichBar(
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("eta {task.fields[eta]}"),
        TextColumn("[cyan]{task.fields[figures]}"),
        console=get_console(),  # the one of the log
    )
    bar.add_task(stage, total=num_steps, completed=first_step, figures="", eta="-:--")
    return bar
