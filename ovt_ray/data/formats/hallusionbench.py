"""Problems of HallusionBench, an evaluation set (github.com/tianyi-lab/HallusionBench).

Guan et al., "HallusionBench: An Advanced Diagnostic Suite for Entangled Language Hallucination and Visual Illusion in Large Vision-Language
Models", CVPR 2024. Questions are in `HallusionBench.json`. The images in `hallusion_bench/` next to it are a separate download.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, folder_in, image_in, read_list, refuse_training
from ovt_ray.data.rows import to_problem


class HallusionBenchRow(PublishedRow):
    """The fields of a question that this reader uses."""

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: Literal["0", "1", "2"]
    """0 for a question without an image."""
    question: str
    gt_answer: Literal["0", "1"]
    filename: str | None
    """Path of the image, such as `./VD/illusion/0_0.png`. Some files begin it with the folder's name."""


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the questions. `path` is the repository's folder."""
    refuse_training(split, "hallusionbench")
    file = path / "HallusionBench.json"
    for number, values in enumerate(read_list(file), start=1):
        yield f"{file} row {number}", partial(_problem, folder_in(path, "hallusion_bench"), values)


def _problem(images: Path, values: object) -> Problem:
    row = checked(HallusionBenchRow, values)
    name = (row.filename or "").removeprefix("./").removeprefix("hallusion_bench/")
    return to_problem(
        {
            "id": "_".join((row.category, row.subcategory, row.set_id, row.figure_id, row.question_id)),
            "question": row.question,
            "images": [] if row.visual_input == "0" else [image_in(images, name)],
            "answer": "yes" if row.gt_answer == "1" else "no",
            "kind": AnswerKind.YESNO.value,
            "source": "hallusionbench",
        },
        images,
    )
