"""Problems of MathVision, an evaluation set (github.com/mathllm/MATH-V).

Wang et al., "Measuring Multimodal Mathematical Reasoning with MATH-Vision Dataset", NeurIPS 2024. Rows are in `data/test.jsonl` or
`data/testmini.jsonl`. Several pictures of a problem are a single image.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, image_in, json_lines, named_option, refuse_training, without_placeholders
from ovt_ray.data.rows import to_problem


class MathVisionRow(PublishedRow):
    """The fields of a line that this reader uses."""

    id: str
    question: str
    """Question with `<image1>`, `<image2>` at the places of the pictures."""
    options: list[str]
    answer: str
    """Gold answer, given by its letter among options."""
    image: str
    """Path of the image, relative to the repository's folder."""
    solution: str | None = None


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the problems. `path` is the repository's folder, or either of the two files in its `data`."""
    refuse_training(split, "mathvision")
    whole = path / "data" / "test.jsonl"
    file = path if path.is_file() else whole if whole.is_file() else whole.with_name("testmini.jsonl")
    for number, values in enumerate(json_lines(file), start=1):
        yield f"{file} row {number}", partial(_problem, file.parent.parent, values)


def _problem(folder: Path, values: object) -> Problem:
    row = checked(MathVisionRow, values)
    return to_problem(
        {
            "id": row.id,
            "question": without_placeholders(row.question),
            "images": [image_in(folder, row.image)],
            "answer": named_option(row.answer, row.options) if row.options else row.answer,
            "choices": row.options,
            "source": "mathvision",
            "solution": row.solution or "",
        },
        folder,
    )
