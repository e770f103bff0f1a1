"""Problems of FigureQA in its own folders (github.com/Maluuba/FigureQA, docs/json_png_format.md).

Kahou et al., "FigureQA: An Annotated Figure Dataset for Visual Reasoning", 2017. A part has `qa_pairs.json` and `png/<image_index>.png`.
The parts `test1` and `test2` have no answers. `train1` is for training, and `validation1` is held out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, image_in, read_list
from ovt_ray.data.rows import to_problem

PART_OF = {"train": "train1", "eval": "validation1"}


class FigureqaRow(PublishedRow):
    """The fields of a question that this reader uses."""

    question_string: str
    answer: Literal[0, 1]
    image_index: int


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the questions of a split. `path` is the folder of the parts' folders."""
    part = PART_OF[split]
    folder = next((path / name for name in (part, f"figureqa-{part}-v1", f"sample_{part}") if (path / name).is_dir()), path / part)
    file = folder / "qa_pairs.json"
    for number, values in enumerate(read_list(file, "qa_pairs"), start=1):
        yield f"{file} row {number}", partial(_problem, folder, f"{folder.name}-{number}", values)


def _problem(folder: Path, id: str, values: object) -> Problem:
    row = checked(FigureqaRow, values)
    return to_problem(
        {
            "id": id,
            "question": row.question_string,
            "images": [image_in(folder, f"png/{row.image_index}.png")],
            "answer": "yes" if row.answer else "no",
            "kind": AnswerKind.YESNO.value,
            "source": "figureqa",
        },
        folder,
    )
