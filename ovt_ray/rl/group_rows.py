"""A scored group as a row of JSON and back, to the last bit. Checkpoints of the stream and kept steps hold such rows."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Completion, Problem, RolloutGroup, Score, ScoredGroup
from ovt_ray.data.stream import ItemStream


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """The row of a group. Its problem stands at `position` of the stage's stream, so images are not copied."""

    step: int
    """Number of the step that learns from the group."""
    position: int
    """Position of the problem in the stream."""
    id: str
    """Id of the problem, which must equal the id of the problem at the position."""
    question: str
    """Question of the problem. Only people read it, and the gold answer below."""
    answer: str
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    scores: tuple[Score, ...]


ROW = TypeAdapter(GroupRow)


def group_row(step: int, position: int, scored: ScoredGroup) -> dict[str, Any]:
    """Return the row of a group, as plain values for JSON."""
    group = scored.group
    row = GroupRow(
        step=step,
        position=position,
        id=group.problem.id,
        question=group.problem.question,
        answer=group.problem.answer,
        prompt_ids=group.prompt_ids,
        completions=group.completions,
        scores=scored.scores,
    )
    return ROW.dump_python(row, mode="json")


def read_group(values: object, problems: ItemStream[Problem]) -> tuple[GroupRow, ScoredGroup]:
    """Return a row and the group that it was made from. Raises DataError with the fault of a damaged row."""
    try:
        row = ROW.validate_python(values)
        problem = problems[row.position]
        if problem.id != row.id:
            raise DataError(f"problem {row.id!r} at position {row.position} of the stream, where the run's data has {problem.id!r}")
        group = RolloutGroup(problem=problem, prompt_ids=row.prompt_ids, completions=row.completions)
        return row, ScoredGroup(group=group, scores=row.scores)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(str(part) for part in first['loc']) or 'row'}: {first['msg']}") from error
    except ValueError as error:
        raise DataError(str(error)) from error
