"""Problems of ScienceQA in its own folder (github.com/lupantech/ScienceQA).

Lu et al., "Learn to Explain: Multimodal Reasoning via Thought Chains for Science Question Answering", NeurIPS 2022. `problems.json` holds
all questions, and `images/<split>/<id>/image.png` is the image of a question, if it has one. The lecture and the explanation are the
worked solution. `train` is for training, and `test` is held out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, folder_in, image_in, numbered_option, read_object
from ovt_ray.data.rows import to_problem

SPLIT_OF = {"train": "train", "eval": "test"}


class ScienceqaRow(PublishedRow):
    """The fields of a question that this reader uses."""

    question: str
    choices: list[str]
    answer: int
    """Place of the right choice, counted from 0."""
    hint: str
    """Context that belongs to the question, possibly empty."""
    image: str | None
    """File name `image.png`, or null for a question without an image."""
    split: str
    lecture: str
    solution: str


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the questions of a split. `path` is the repository's folder, or the folder `data/scienceqa` in it."""
    folder = folder_in(path, "data/scienceqa")
    file = folder / "problems.json"
    for pid, values in read_object(file).items():
        if not isinstance(values, dict) or values.get("split", SPLIT_OF[split]) == SPLIT_OF[split]:
            yield f"{file} problem {pid[:60]!r}", partial(_problem, folder_in(folder, "images"), pid, values)


def _problem(images: Path, pid: str, values: object) -> Problem:
    row = checked(ScienceqaRow, values)
    return to_problem(
        {
            "id": pid,
            "question": f"{row.hint.strip()}\n{row.question.strip()}",
            "images": [image_in(images, f"{row.split}/{pid}/{row.image}")] if row.image else [],
            "answer": numbered_option(row.answer, row.choices),
            "choices": row.choices,
            "source": "scienceqa",
            "solution": f"{row.lecture.strip()}\n{row.solution.strip()}".strip(),
        },
        images,
    )
