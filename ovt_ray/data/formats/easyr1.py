"""Problems in the columns that EasyR1 reads (github.com/hiyouga/EasyR1): `problem`, `answer`, `images`.

`hiyouga/geometry3k` has these columns. `<image>` in the problem's text marks the place of an image. Here all images stand before the
question.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, without_placeholders
from ovt_ray.data.formats.tables import TableRow, check_placeholders, image_sources, table_rows
from ovt_ray.data.rows import to_problem


class EasyR1Row(PublishedRow):
    """The fields of a row that this reader uses."""

    problem: str
    answer: str | int | float
    images: Any = None
    """List of images, or null."""


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a file of Parquet, JSON or JSON lines, or of a folder of them. Held-out rows have a path of their own."""
    for row in table_rows(path):
        yield row.place, partial(_problem, row)


def _problem(source: TableRow) -> Problem:
    row = checked(EasyR1Row, source.values)
    images = image_sources(row.images, source.folder)
    check_placeholders(row.problem, images, "problem")
    return to_problem(
        {
            "id": source.id,
            "question": without_placeholders(row.problem),
            "images": images,
            "answer": row.answer,
            "source": source.folder.name,
        },
        source.folder,
    )
