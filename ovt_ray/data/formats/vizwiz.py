"""Problems of VizWiz-VQA in its own folders (vizwiz.org/tasks-and-datasets/vqa).

Gurari et al., "VizWiz Grand Challenge: Answering Visual Questions from Blind People", CVPR 2018. `Annotations/<split>.json` is a list,
and images are in the folder `<split>`. The gold answer is the most frequent answer of the ten people, and the first of equally frequent
answers. A question is left out if that answer is `unanswerable`. The test questions have no answers: `val` is held out.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, folder_in, image_in, read_list
from ovt_ray.data.rows import LeftOut, to_problem

NAME_OF = {"train": "train", "eval": "val"}


class VizwizAnswer(PublishedRow):
    """The answer of a person."""

    answer: str


class VizwizRow(PublishedRow):
    """The fields of a question that this reader uses."""

    image: str
    question: str
    answers: list[VizwizAnswer]


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the questions of a split. `path` is the folder of `Annotations`, `train` and `val`."""
    file = folder_in(path, "Annotations", "annotations") / f"{NAME_OF[split]}.json"
    for number, values in enumerate(read_list(file), start=1):
        yield f"{file} row {number}", partial(_problem, folder_in(path, NAME_OF[split]), values)


def _problem(images: Path, values: object) -> Problem:
    row = checked(VizwizRow, values)
    if not row.answers:
        raise DataError("answers: must not be empty, got []")
    ((gold, count),) = Counter(given.answer for given in row.answers).most_common(1)
    if gold == "unanswerable":
        raise LeftOut(f"answers: {count} of {len(row.answers)} people said 'unanswerable'")
    return to_problem(
        {
            "id": Path(row.image).stem,
            "question": row.question,
            "images": [image_in(images, row.image)],
            "answer": gold,
            "source": "vizwiz",
        },
        images,
    )
