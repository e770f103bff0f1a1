"""Problems of MapQA in its own folders (github.com/OSU-slatelab/MapQA).

Chang et al., "MapQA: A Dataset for Question Answering on Choropleth Maps", 2022. Each of its three subsets has
`questions/{train,dev,test}-QA.json` and `images`. An answer of several texts is a set, whose order is free. `train` is for training,
and `test` is held out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, image_in, read_list
from ovt_ray.data.rows import to_problem

NAME_OF = {"train": "train", "eval": "test"}


class MapqaRow(PublishedRow):
    """The fields of a question that this reader uses."""

    map_id: str
    """File name of the image."""
    question: str
    question_id: int
    answer: str | list[str]


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the questions of a split. `path` is a subset's folder."""
    file = path / "questions" / f"{NAME_OF[split]}-QA.json"
    for number, values in enumerate(read_list(file, "questions"), start=1):
        yield f"{file} row {number}", partial(_problem, path / "images", NAME_OF[split], values)


def _problem(images: Path, part: str, values: object) -> Problem:
    row = checked(MapqaRow, values)
    answers = [row.answer] if isinstance(row.answer, str) else row.answer
    is_set = len(answers) > 1
    return to_problem(
        {
            "id": f"{part}-{row.question_id}",
            "question": row.question,
            "images": [image_in(images, row.map_id)],
            "answer": "{" + ", ".join(answers) + "}" if is_set else "".join(answers),
            "kind": AnswerKind.LIST.value if is_set else None,
            "source": "mapqa",
        },
        images,
    )
