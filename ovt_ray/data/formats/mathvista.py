"""Problems of MathVista, an evaluation set (github.com/lupantech/MathVista).

Lu et al., "MathVista: Evaluating Mathematical Reasoning of Foundation Models in Visual Contexts", ICLR 2024. The answers of `testmini` are
published in `data/testmini.json`. The images in `images/` next to it are a separate download.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, folder_in, image_in, read_object, refuse_training
from ovt_ray.data.rows import to_problem

KIND_OF = {
    "text": AnswerKind.CHOICE,
    "integer": AnswerKind.NUMBER,
    "float": AnswerKind.NUMBER,
    "list": AnswerKind.LIST,
}


class MathVistaRow(PublishedRow):
    """The fields of a problem that this reader uses."""

    pid: str
    question: str
    image: str
    """Path of the image: `images/<pid>.jpg`."""
    choices: list[str] | None
    unit: str | None
    precision: float | None
    """Number of decimals to compare. It is a whole number, which some files write with a point."""
    answer: str
    """Text of the right option, or a number as text."""
    answer_type: Literal["text", "integer", "float", "list"]


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the problems. `path` is the repository's folder, or the folder `data` in it."""
    refuse_training(split, "mathvista")
    folder = folder_in(path, "data")
    file = folder / "testmini.json"
    for pid, values in read_object(file).items():
        yield f"{file} problem {pid[:60]!r}", partial(_problem, folder, values)


def _problem(folder: Path, values: object) -> Problem:
    row = checked(MathVistaRow, values)
    return to_problem(
        {
            "id": row.pid,
            "question": f"{row.question.strip()} (Unit: {row.unit})" if row.unit else row.question,
            "images": [image_in(folder, row.image)],
            "answer": row.answer,
            "kind": KIND_OF[row.answer_type].value,
            "choices": row.choices or [],
            "precision": int(row.precision) if row.precision and 0 < row.precision < 100 else None,
            "source": "mathvista",
        },
        folder,
    )
