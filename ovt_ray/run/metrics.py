"""Figures of every step: `metrics.jsonl` for programs, TensorBoard event files for people.

A row is flat: `{"time": ..., "stage": "iter1/grpo", "step": 3, "reward": 0.61, ...}`. The report draws `reward`, `accuracy`,
`response_tokens`, `loss` and `validation_loss`; the progress line shows `reward`, `accuracy`, `tokens_per_s` and the losses.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ovt_ray.core.files import append_json_line, drop_torn_end, read_json_lines, write_json_lines_atomically

METRICS_FILE = "metrics.jsonl"
ROW_KEYS = ("time", "stage", "step")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRow:
    """The figures of one step of one stage."""

    time: float
    """Time of the row, in seconds since the epoch."""
    stage: str
    step: int
    """Number of the step within the stage, from 0."""
    values: Mapping[str, float]
    """Value of each figure by name; NaN where it was not finite."""


class MetricsLog:
    """Takes the figures of one stage, step by step; use it in a `with` statement."""

    def __init__(self, run_dir: Path, stage: str, first_step: int) -> None:
        """Open the log of a stage that starts, or goes on, at `first_step`: later rows of an interrupted attempt are dropped."""
        self._path = run_dir / METRICS_FILE
        self._stage = stage
        drop_torn_end(self._path)
        rows = read_json_lines(self._path)
        kept = [row for row in rows if row["stage"] != stage or row["step"] < first_step]
        if len(kept) < len(rows):
            write_json_lines_atomically(self._path, kept)
        self._events = _EventFile(run_dir / "tensorboard" / stage, [_row(row) for row in kept if row["stage"] == stage])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the figures of one step, on the disk when this returns. Figures that are not finite are stored as null."""
        if clash := values.keys() & set(ROW_KEYS):
            raise ValueError(f"a figure may not be named {sorted(clash)}: every row has that key already")
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        now = round(time.time(), 3)
        append_json_line(self._path, {"time": now, "stage": self._stage, "step": step, **finite})
        self._events.add(MetricsRow(time=now, stage=self._stage, step=step, values=values))

    def close(self) -> None:
        """Finish the event file."""
        self._events.close()


def read_metrics(run_dir: Path) -> list[MetricsRow]:
    """Return all rows of a run in the order they were written; none if there are no metrics yet."""
    return [_row(row) for row in read_json_lines(run_dir / METRICS_FILE)]


def _row(row: dict[str, Any]) -> MetricsRow:
    values = {name: math.nan if value is None else value for name, value in row.items() if name not in ROW_KEYS}
    return MetricsRow(time=row["time"], stage=row["stage"], step=row["step"], values=values)


class _EventFile:
    """A TensorBoard event file, written by tensorboard itself so that the driver need not import torch.

    A stage has one file. It is written again when the stage goes on. TensorBoard orders several files by name, not by age.
    """

    def __init__(self, folder: Path, rows: Sequence[MetricsRow]) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = EventFileWriter(str(folder))
        for row in rows:
            self.add(row)

    def add(self, row: MetricsRow) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
        self._writer.add_event(Event(wall_time=row.time, step=row.step, summary=Summary(value=scalars)))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
