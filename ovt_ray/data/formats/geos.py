"""Problems of GEOS in the files of its solver (github.com/seominjoon/geosolver, demo/assets).

Seo et al., "Solving Geometry Problems: Combining Text and Diagram Interpretation", EMNLP 2015. A problem is a folder with `question.json`
and `diagram.png`. Its answer is the number of a choice. The data have no splits.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, image_in, read_json
from ovt_ray.data.rows import to_problem

PRODUCT = re.compile(r"\*(?=[\\A-Za-z])")
"""A product sign that can be left out: `15*\\degree`, not `2*3`."""


class GeosRow(PublishedRow):
    """The fields of a `question.json` that this reader uses."""

    key: int
    text: str
    choices: dict[str, str]
    """Choices by number, counted from 1, with `*` between factors: `15*\\degree`."""
    answer: float
    """Number of the right choice, written with or without a point."""


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the problems of a folder in the order of their numbers. Held-out problems have a path of their own, or the run chooses them."""
    files = sorted(path.glob("*/question.json"), key=lambda file: (len(file.parent.name), file.parent.name))
    if not files:
        raise DataError(f"{path}: no folder in it has a question.json; data.path must be a folder of GEOS problems")
    for file in files:
        yield f"{file}", partial(_problem, file)


def _problem(file: Path) -> Problem:
    row = checked(GeosRow, read_json(file))
    choices = {number: PRODUCT.sub("", text) for number, text in sorted(row.choices.items())}
    answer = choices.get(f"{row.answer:g}")
    if answer is None:
        raise DataError(f"answer: {row.answer:g} is not the number of one of the choices {list(choices)[:8]}; correct it")
    return to_problem(
        {
            "id": str(row.key),
            "question": row.text,
            "images": [image_in(file.parent, "diagram.png")],
            "answer": answer,
            "choices": list(choices.values()),
            "source": "geos",
        },
        file.parent,
    )
