"""The driver's part of a checkpoint: the state from which the stream of groups goes on after a stop.

It is a file of JSON lines in the folder that the learner's ranks write to. So both parts of a checkpoint appear by the same rename, and are
removed together. The first line holds the numbers; a line for each finished group of later steps follows.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from learner.checkpoints import INCOMPLETE, tag
from ovt_ray.core.errors import DataError, StageError
from ovt_ray.core.files import read_json_lines, write_json_lines_atomically
from ovt_ray.core.types import Problem, ScoredGroup
from ovt_ray.data.stream import ItemStream
from ovt_ray.rl.group_rows import group_row, read_group
from ovt_ray.rl.services import PolicyLearner

STATE_FILE = "stream.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunStep:
    """A step whose groups were being generated."""

    step: int
    positions: tuple[int, ...]
    """Positions of its problems in the stream, ascending."""
    finished: Mapping[int, ScoredGroup]
    """Finished groups by the position of their problem; the others are begun again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """State of a stage between two steps; the defaults describe its start."""

    step: int = 0
    """Number of the next step to learn from."""
    position: int = 0
    """Position of the next problem of the stream that no step has."""
    version: int = 0
    """Version of the weights that the rollout workers serve. A stage's start does not use it."""
    num_without_signal: int = 0
    """Number of steps in a row before this one whose groups had no signal."""
    rollout_is_exact: bool = False
    """Whether the rollout log-probabilities equalled the learner's at the start of the stage."""
    begun: tuple[BegunStep, ...] = ()
    """Steps from `step` on that were begun ahead, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    step: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """The first line; its fields are the file's keys."""

    step: int
    position: int
    version: int
    num_flat: int
    """Number of steps without a signal, as in `StreamState`."""
    rollout_is_exact: bool
    begun: tuple[_Begun, ...]
    num_groups: int
    """Number of lines that follow."""


NUMBERS = TypeAdapter(_Numbers)


def write_state(checkpoints: Path, state: StreamState) -> None:
    """Put the state into the checkpoint that the learner writes next."""
    groups = [group_row(begun.step, position, group) for begun in state.begun for position, group in begun.finished.items()]
    numbers = _Numbers(
        step=state.step,
        position=state.position,
        version=state.version,
        num_flat=state.num_without_signal,
        rollout_is_exact=state.rollout_is_exact,
        begun=tuple(_Begun(step=begun.step, positions=begun.positions) for begun in state.begun),
        num_groups=len(groups),
    )
    # Into the folder that gets its name last: both parts appear by one rename, or neither does.
    write_json_lines_atomically(checkpoints / INCOMPLETE / STATE_FILE, [asdict(numbers), *groups])


def save_checkpoint(checkpoints: Path, state: StreamState, learner: PolicyLearner) -> None:
    """Write a checkpoint from which the stage goes on with the state's step. The stream's part is first: the learner's completes it."""
    write_state(checkpoints, state)
    learner.save(checkpoints, state.step)


def read_state(checkpoints: Path, step: int, problems: ItemStream[Problem]) -> StreamState:
    """Return the state that was saved with the checkpoint of a step; at step 0, the state of a stage's start.

    Raises StageError if the file is missing or damaged, with its path and the remedy.
    """
    if step == 0:
        return StreamState()
    path = checkpoints / tag(step) / STATE_FILE
    try:
        return _read(path, step, problems)
    except (DataError, ValidationError) as error:
        reason = f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}" if isinstance(error, ValidationError) else str(error)
        raise StageError(
            f"{path}: the driver's part of the checkpoint cannot be used ({reason}). Put the file back, or remove {checkpoints} and run "
            "the same command again: the stage then begins again"
        ) from error


def _read(path: Path, step: int, problems: ItemStream[Problem]) -> StreamState:
    rows = read_json_lines(path)
    if not rows:
        raise DataError("it is empty" if path.exists() else "there is no such file")
    numbers = NUMBERS.validate_python(rows[0])
    # The reader of JSON lines ignores a torn end: only this count shows that groups are missing.
    if (numbers.step, numbers.num_groups) != (step, len(rows) - 1):
        raise DataError(f"step {numbers.step} and {numbers.num_groups} groups in line 1, step {step} and {len(rows) - 1} in fact")
    finished: dict[int, dict[int, ScoredGroup]] = {begun.step: {} for begun in numbers.begun}
    known = {(begun.step, position) for begun in numbers.begun for position in begun.positions}
    for line, values in enumerate(rows[1:], start=2):
        try:
            row, group = read_group(values, problems)
        except DataError as error:
            raise DataError(f"line {line}: {error}") from error
        if (row.step, row.position) not in known:
            raise DataError(f"line {line}: step {row.step} has no problem, or another group of it, at position {row.position}")
        # Once each: a second group at a position would replace the first in silence.
        known.remove((row.step, row.position))
        finished[row.step][row.position] = group
    # In the order of their steps, on which the stream relies.
    begun = tuple(BegunStep(step=one.step, positions=one.positions, finished=finished[one.step]) for one in numbers.begun)
    return StreamState(
        step=step,
        position=numbers.position,
        version=numbers.version,
        num_without_signal=numbers.num_flat,
        rollout_is_exact=numbers.rollout_is_exact,
        begun=begun,
    )
