"""Problems of CLEVR in its own folders (github.com/facebookresearch/clevr-dataset-gen).

Johnson et al., "CLEVR: A Diagnostic Dataset for Compositional Language and Elementary Visual Reasoning", CVPR 2017. Questions are in
`questions/CLEVR_<split>_questions.json`, images in `images/<split>`. The test questions have no answers: `val` is held out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, image_in, read_list
from ovt_ray.data.rows import to_problem

NAME_OF = {"train": "train", "eval": "val"}


class ClevrRow(PublishedRow):
    """The fields that this reader uses of a question of CLEVR, or of a data set from its generator."""

    image_filename: str
    question: str
    question_index: int
    answer: str | bool | int


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the questions of a split. `path` is the folder CLEVR_v1.0, or a file of questions in it, which has a single split."""
    file = path if path.is_file() else path / "questions" / f"CLEVR_{NAME_OF[split]}_questions.json"
    part = file.name.removeprefix("CLEVR_").removesuffix("_questions.json")
    if (part == "train") is not (split == "train"):
        return
    for number, values in enumerate(read_list(file, "questions"), start=1):
        yield f"{file} row {number}", partial(question_problem, file, file.parent.parent / "images" / part, "clevr", values)


def question_problem(file: Path, images: Path, source: str, values: object) -> Problem:
    """Return the problem of a question. A boolean answer becomes yes or no."""
    row = checked(ClevrRow, values)
    return to_problem(
        {
            "id": f"{file.stem}-{row.question_index}",
            "question": row.question,
            "images": [image_in(images, row.image_filename)],
            "answer": ("yes" if row.answer else "no") if isinstance(row.answer, bool) else row.answer,
            "source": source,
        },
        images,
    )
