"""Problems of TabMWP, read from the data set's own folder (github.com/lupantech/PromptPG).

Lu et al., "Dynamic Prompt Learning via Policy Gradient for Semi-structured Mathematical Reasoning", ICLR 2023. The 1,000 problems of
`dev1k` are for training, the first of `test1k` are held out. A problem's image is its table, `tables/<id>.png`.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ovt_ray.config import DataConfig
from ovt_ray.errors import DataError
from ovt_ray.problem_rows import YES_NO, LoadedProblems, collect, explain, settle, to_problem
from ovt_ray.types import Problem

SOURCE = "tabmwp"


class TabmwpRow(BaseModel):
    """The fields we use of a problem in `problems_*.json`."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    question: str
    answer: str
    choices: list[str] | None
    unit: str | None
    """What a number counts: "$", "minutes per year". The answer is without it."""
    solution: str


def load_tabmwp(config: DataConfig) -> LoadedProblems:
    """Return the problems of `dev1k`, and as held-out ones the first `num_eval` of `test1k` whose image is there.

    `path` is the repository's folder or the `data/tabmwp` in it. Raises DataError listing the bad rows, unless they are dropped.
    """
    assert config.path is not None
    inner = config.path / "data" / "tabmwp"
    folder = inner if inner.is_dir() else config.path
    test = _read(folder, "test1k")
    with_image = {pid: row for pid, row in test.items() if _image(folder, pid).exists()}
    train, bad = collect(_rows(folder, "dev1k", _read(folder, "dev1k")))
    held_out, more = collect(_rows(folder, "test1k", dict(list(with_image.items())[: config.num_eval])))
    dropped = settle(bad + more, config.bad_rows)
    if num_without := len(test) - len(with_image):
        dropped += (f"{folder / 'problems_test1k.json'}: {num_without} of {len(test)} problems, whose images are not there",)
    return LoadedProblems(train=tuple(train), held_out=tuple(held_out), dropped=dropped)


def _read(folder: Path, split: str) -> dict[str, object]:
    """Return the rows of a split by problem id, unchecked."""
    path = folder / f"problems_{split}.json"
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); data.path must be TabMWP's folder") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); copy the file again") from error
    if not isinstance(rows, dict):
        raise DataError(f"{path}: must be an object of problems by id, got a {type(rows).__name__}; copy the file again")
    return rows


def _rows(folder: Path, split: str, rows: dict[str, object]) -> Iterator[tuple[str, Callable[[], Problem]]]:
    for pid, values in rows.items():
        yield f"{folder / f'problems_{split}.json'} problem {pid}", partial(_problem, folder, pid, values)


def _problem(folder: Path, pid: str, values: object) -> Problem:
    """Return one problem: yes/no questions lose their two choices, numbers get their unit named in the question.

    The unit is part of the task, not of the gold answer: a table in dollars may be asked about in cents.
    """
    try:
        row = TabmwpRow.model_validate(values)
    except ValidationError as error:
        raise DataError("; ".join(explain(problem, TabmwpRow) for problem in error.errors())) from error
    choices = row.choices or []
    return to_problem(
        {
            "id": pid,
            "question": f"{row.question.strip()} (Unit: {row.unit})" if row.unit else row.question,
            "images": [str(_image(folder, pid).resolve())],
            "answer": row.answer,
            "choices": [] if set(choices) == YES_NO else choices,
            "source": SOURCE,
            "solution": row.solution,
        },
        folder,
    )


def _image(folder: Path, pid: str) -> Path:
    return folder / "tables" / f"{pid}.png"
