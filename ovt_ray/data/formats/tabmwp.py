"""Problems of TabMWP, read from the data set's own folder (github.com/lupantech/PromptPG).

Lu et al., "Dynamic Prompt Learning via Policy Gradient for Semi-structured Mathematical Reasoning", ICLR 2023. The problems of `train` are
for training, or the 1,000 of `dev1k` if that file is missing. The first problems of `test1k` are held out. A problem's image is its
table, `tables/<id>.png`.
"""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, image_in, read_object, refused
from ovt_ray.data.rows import YES_NO, LeftOut, to_problem

SOURCE = "tabmwp"


class TabmwpRow(PublishedRow):
    """The fields of a problem in `problems_*.json` that this reader uses."""

    question: str
    answer: str
    choices: list[str] | None
    unit: str | None
    """Unit of a number, such as "$" or "minutes per year". The answer does not include it."""
    solution: str


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the problems for training, or the problems of `test1k` with an image. Problems without an image make a single left-out row.

    `path` is the repository's folder, or the folder `data/tabmwp` in it.
    """
    inner = path / "data" / "tabmwp"
    folder = inner if inner.is_dir() else path
    name = "test1k" if split == "eval" else "train" if (folder / "problems_train.json").is_file() else "dev1k"
    place, problems = folder / f"problems_{name}.json", read_object(folder / f"problems_{name}.json")
    num_without = 0
    for pid, values in problems.items():
        if split == "eval" and not os.path.exists(folder / _image(pid)):
            num_without += 1
            continue
        yield f"{place} problem {pid[:60]!r}", partial(_problem, folder, pid, values)
    if num_without:
        yield str(place), partial(refused, LeftOut(f"{num_without} of {len(problems)} problems, whose images are not there"))


def _problem(folder: Path, pid: str, values: object) -> Problem:
    """Return a problem. A yes/no question loses its two choices. The question of a number names its unit.

    The unit is part of the task, not of the gold answer: a question about a table in dollars may ask for cents.
    """
    row = checked(TabmwpRow, values)
    choices = row.choices or []
    return to_problem(
        {
            "id": pid,
            "question": f"{row.question.strip()} (Unit: {row.unit})" if row.unit else row.question,
            "images": [image_in(folder, _image(pid))],
            "answer": row.answer,
            "choices": [] if set(choices) == YES_NO else choices,
            "source": SOURCE,
            "solution": row.solution,
        },
        folder,
    )


def _image(pid: str) -> str:
    return f"tables/{pid}.png"
