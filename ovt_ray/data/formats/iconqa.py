"""Problems of IconQA in its own folder (github.com/lupantech/IconQA).

Lu et al., "IconQA: A New Benchmark for Abstract Diagram Understanding and Visual Language Reasoning", NeurIPS 2021. Questions are in
`problems.json`, images in `iconqa/<split>/<ques_type>/<pid>`. The diagram is image 1, and options that are pictures follow it. `train` is
for training, and `test` is held out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, folder_in, image_in, numbered_option, read_object
from ovt_ray.data.rows import to_problem

SPLIT_OF = {"train": "train", "eval": "test"}


class IconqaRow(PublishedRow):
    """The fields of a problem that this reader uses."""

    question: str
    ques_type: Literal["choose_img", "choose_txt", "fill_in_blank"]
    choices: list[str] | None = None
    """Texts or file names of the choices; none where the answer is a text."""
    answer: int | str
    """Place of the right choice, counted from 0, or the answer itself."""
    split: Literal["train", "val", "test"]


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the problems of a split. `path` is the folder `iconqa_data`, or the folder `data` around it."""
    folder = folder_in(path, "iconqa_data")
    file = next((file for file in (folder / "problems.json", path / "problems.json") if file.is_file()), folder / "problems.json")
    for pid, values in read_object(file).items():
        if not isinstance(values, dict) or values.get("split", SPLIT_OF[split]) == SPLIT_OF[split]:
            yield f"{file} problem {pid[:60]!r}", partial(_problem, folder / "iconqa", pid, values)


def _problem(images: Path, pid: str, values: object) -> Problem:
    row = checked(IconqaRow, values)
    folder = f"{row.split}/{row.ques_type}/{pid}"
    options = row.choices or []
    pictures = options if row.ques_type == "choose_img" else []
    choices = [f"image {number}" for number, _ in enumerate(pictures, start=2)] or options
    if bool(choices) is not isinstance(row.answer, int):
        raise DataError(f"answer: must be the place of a choice where there are choices, and else a text, got {row.answer!r:.60}")
    return to_problem(
        {
            "id": pid,
            "question": row.question,
            "images": [image_in(images, f"{folder}/{name}") for name in ("image.png", *pictures)],
            "answer": numbered_option(row.answer, choices) if isinstance(row.answer, int) else row.answer,
            "choices": choices,
            "source": "iconqa",
        },
        images,
    )
