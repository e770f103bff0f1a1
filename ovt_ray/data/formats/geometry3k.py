"""Problems of Geometry3K in the data set's own folders (github.com/lupantech/InterGPS).

Lu et al., "Inter-GPS: Interpretable Geometry Problem Solving with Formal Language and Symbolic Reasoning", ACL 2021. A problem is a folder
with `data.json` and `img_diagram.png`, in `train`, `val` or `test`. `train` is for training, and `test` is held out. Without these three
folders, the field `data_type` names a problem's split.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, folder_in, image_in, named_option, read_json
from ovt_ray.data.rows import to_problem

FOLDER_OF = {"train": "train", "eval": "test"}


class Geometry3kRow(PublishedRow):
    """The fields of a `data.json` that this reader uses."""

    id: int
    problem_text: str
    annotat_text: str = ""
    """Question with its mathematics between dollars; empty where only `problem_text` is given."""
    choices: list[str]
    """Choices in LaTeX without dollars, with blanks between letters: `5 \\sqrt { 2 }`."""
    compact_choices: list[str] = []
    """Choices without needless blanks; empty where they were not annotated."""
    answer: str
    """Letter of the right choice."""


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the problems of a split in the order of their numbers."""
    base = folder_in(path, FOLDER_OF[split])
    if not base.is_dir():
        raise DataError(f"{base}: not a folder; data.path must hold Geometry3K's train, val and test")
    folders = sorted(base.glob("*/data.json"), key=lambda file: (len(file.parent.name), file.parent.name))
    if not folders:
        raise DataError(f"{base}: no folder in it has a data.json; data.path must hold Geometry3K's train, val and test")
    for file in folders:
        if base == path and not _is_of(file, FOLDER_OF[split]):
            continue
        yield f"{file}", partial(_problem, file)


def _is_of(file: Path, data_type: str) -> bool:
    """Return whether a problem names this split as its own. An unreadable problem belongs to every split, so that a message names it."""
    try:
        values = read_json(file)
    except DataError:
        return True
    return not isinstance(values, dict) or values.get("data_type", data_type) == data_type


def _problem(file: Path) -> Problem:
    row = checked(Geometry3kRow, read_json(file))
    choices = row.compact_choices or row.choices
    return to_problem(
        {
            "id": str(row.id),
            "question": row.annotat_text.strip() or row.problem_text,
            "images": [image_in(file.parent, "img_diagram.png")],
            "answer": named_option(row.answer, choices),
            "choices": choices,
            "source": "geometry3k",
        },
        file.parent,
    )
