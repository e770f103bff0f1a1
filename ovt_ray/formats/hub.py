"""Problems from a data set of the Hugging Face hub, or from a folder that the `datasets` library opens: `NAME`, or `NAME:SPLIT`.

Columns are taken by the names that published sets give them. No code of a data set is run (the library has none of that left), and images
are those in the columns: none is fetched.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ovt_ray.errors import DataError
from ovt_ray.formats import Row, Split
from ovt_ray.formats.reading import PublishedRow, checked, named_option, numbered_option, without_placeholders
from ovt_ray.formats.tables import ROWS_AT_ONCE, check_placeholders, image_sources
from ovt_ray.problem_rows import to_problem
from ovt_ray.types import Problem

COLUMNS = {
    "id": ("id", "pid", "question_id", "uid"),
    "question": ("question", "problem", "query"),
    "answer": ("answer", "ground_truth"),
    "images": ("decoded_image", "images", "image"),
    "choices": ("choices", "options"),
    "solution": ("solution",),
}
"""The names that a field may have in a published set; the first that is there is read."""


class HubRow(PublishedRow):
    """A row under our names."""

    id: str | int | None = None
    question: str
    answer: str | int | float
    """Of a choice its text, its letter or its place, counted from 0."""
    images: Any = None
    choices: list[str] | None = None
    solution: str | None = None


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a data set's split, `train` where the path names none; what is held out is another path."""
    import pyarrow

    name, folder, table = _opened(path)
    column_of = {field: found for field, names in COLUMNS.items() if (found := next((n for n in names if n in table.column_names), None))}
    if missing := [field for field in ("question", "answer") if field not in column_of]:
        known = ", ".join(table.column_names)[:300]
        raise DataError(f"{name}: no column for {missing[0]}: one must be named {' or '.join(COLUMNS[missing[0]])}, got {known}")
    number = 0
    try:
        for batch in table.select_columns(list(column_of.values())).with_format("arrow").iter(ROWS_AT_ONCE):
            for values in batch.to_pylist():
                number += 1
                renamed = {field: values[column] for field, column in column_of.items()}
                yield f"{name} row {number}", partial(_problem, name, number, folder, renamed)
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise DataError(f"{name}: row {number + 1} and those after it cannot be read ({str(error)[:200]})") from error


def _opened(path: Path) -> tuple[str, Path, Any]:
    """Return the name, the folder that images' paths start at, and the table; images stay encoded."""
    import datasets

    name, _, split = (str(path), "", "") if path.exists() else str(path).rpartition(":")
    name, split = (name, split) if name else (str(path), "")
    split = split or "train"
    if not re.fullmatch(r"\w+(\[[\w:%-]*\])?", split):
        raise DataError(f"{path}: {split!r} is not the name of a split; write NAME:SPLIT")
    folder = Path(name)
    try:
        if (folder / "dataset_dict.json").is_file():
            return name, folder, datasets.load_from_disk(name)[split]
        if (folder / "state.json").is_file():
            return name, folder, datasets.load_from_disk(name)
        return name, folder, datasets.load_dataset(name, split=split)
    except Exception as error:  # the library, and what it asks, raise errors of every kind: each means that the data cannot be had
        reason = f"{type(error).__name__}: {str(error).strip()[:300]}"
        raise DataError(f"{name}: split {split!r} cannot be opened ({reason}); check data.path, NAME or NAME:SPLIT") from error


def _problem(name: str, number: int, folder: Path, values: dict[str, object]) -> Problem:
    row = checked(HubRow, values)
    images = image_sources(row.images, folder)
    check_placeholders(row.question, images, "question")
    choices = row.choices or []
    return to_problem(
        {
            "id": str(number) if row.id is None else str(row.id),
            "question": without_placeholders(row.question),
            "images": images,
            "answer": _gold(row.answer, choices) if choices else row.answer,
            "choices": choices,
            "source": Path(name).name,
            "solution": row.solution or "",
        },
        folder,
    )


def _gold(answer: str | int | float, choices: list[str]) -> str:
    """Return the text of the choice that an answer names."""
    if isinstance(answer, int):
        return numbered_option(answer, choices)
    return answer if isinstance(answer, str) and answer in choices else named_option(str(answer), choices)
