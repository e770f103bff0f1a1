"""Problems of MMMU, an evaluation set, in the columns that its hub repository and its tools use (github.com/MMMU-Benchmark/MMMU).

Yue et al., "MMMU: A Massive Multi-discipline Multimodal Understanding and Reasoning Benchmark for Expert AGI", CVPR 2024. Up to seven
images are in the columns `image_1` to `image_7`. The first of several right answers to an open question is the gold answer.
"""

import ast
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, named_option, placeholders_in_words, refuse_training, without_placeholders
from ovt_ray.data.formats.tables import TableRow, image_sources, table_rows
from ovt_ray.data.rows import to_problem

MAX_LITERAL_CHARS = 10_000


class MmmuRow(PublishedRow):
    """The fields of a row that this reader uses."""

    id: str | None = None
    question: str
    options: list[str] | str = []
    """Options as a list, or as the text of a Python list."""
    answer: str
    image_1: Any = None
    image_2: Any = None
    image_3: Any = None
    image_4: Any = None
    image_5: Any = None
    image_6: Any = None
    image_7: Any = None


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a file of Parquet, JSON or JSON lines, or of a folder of them."""
    refuse_training(split, "mmmu")
    for row in table_rows(path):
        yield row.place, partial(_problem, row)


def _problem(source: TableRow) -> Problem:
    row = checked(MmmuRow, source.values)
    columns = (row.image_1, row.image_2, row.image_3, row.image_4, row.image_5, row.image_6, row.image_7)
    options = [placeholders_in_words(option) for option in _listed(row.options)]
    return to_problem(
        {
            "id": row.id or source.id,
            "question": without_placeholders(row.question),
            "images": [image for column in columns for image in image_sources(column, source.folder)],
            "answer": named_option(row.answer, options) if options else next(iter(_listed(row.answer)), ""),
            "choices": options,
            "source": "mmmu",
        },
        source.folder,
    )


def _listed(value: list[str] | str) -> list[str]:
    """Return the texts of a list, or of a list in Python's notation. Any other text is the only item."""
    if isinstance(value, list) or not value.startswith("["):
        return value if isinstance(value, list) else [value]
    try:
        items = ast.literal_eval(value) if len(value) <= MAX_LITERAL_CHARS else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        items = None
    if not isinstance(items, list):
        raise DataError(f"options: {value[:80]!r} is not a list; correct it")
    return [str(item) for item in items]
