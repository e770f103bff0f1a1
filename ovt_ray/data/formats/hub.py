"""Problems from a data set of the Hugging Face hub, or from a folder that the `datasets` library opens.

The path is `NAME`, `NAME:SPLIT` or `NAME/CONFIG:SPLIT`. A `stream:` before it reads the hub's files without keeping them. Columns are
found by the names that published sets use. No code of a data set is run, as the library cannot. Images are in the columns, as bytes or web
addresses.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import (
    PublishedRow,
    checked,
    named_option,
    numbered_option,
    placeholders_in_words,
    refuse_training,
    without_placeholders,
)
from ovt_ray.data.formats.tables import ROWS_AT_ONCE, check_placeholders, image_sources
from ovt_ray.data.rows import to_problem
from reward.verifier.extract import ANSWER, END_ANSWER, END_THINK

COLUMNS = {
    "id": ("id", "pid", "question_id", "uid"),
    "question": ("question", "problem", "query"),
    "answer": ("answer", "ground_truth"),
    "images": ("decoded_image", "images", "image"),
    "choices": ("choices", "options"),
    "solution": ("solution",),
}
"""Column names of a field in published sets. The first that exists is read."""
NUMBERED_IMAGE = re.compile("image_[1-7]")
"""Names of columns with an image each, as in MMMU. They are read if no column holds all images."""
SPLIT_NAME = re.compile(r"(?<=.):([\w.-]+(?:\[[\w:%-]*\])?)$")
"""`:test`, or a part of a split in the library's notation, `:test[:10%]`."""
EVALUATION_SETS = re.compile(
    "^math-v$|(?<![a-z0-9])(math-?vision|math-?vista|math-?verse|emma|mmmu|hallusionbench)(?![a-z0-9])", re.IGNORECASE
)
"""Names of evaluation sets. They match as whole names, because MathV360K and math-verify are for training."""


class HubRow(PublishedRow):
    """A row with its columns renamed."""

    id: str | int | None = None
    question: str
    answer: str | int | float | None = None
    """Gold answer: for a choice its text, its letter or its place, counted from 0. None if it stands between `<answer>` tags in the
    solution."""
    images: Any = None
    choices: list[str] | None = None
    solution: str | None = None


class Source(NamedTuple):
    """The parts of a path."""

    name: str
    config: str | None
    """Name of a table, if the data set has several."""
    split: str
    is_streamed: bool
    """Whether rows are read over the network without a copy in the library's cache."""


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a data set's split. Held-out rows have a path of their own."""
    source = parsed(str(path))
    if benchmark := EVALUATION_SETS.search(source.name.rpartition("/")[2]):
        refuse_training(split, benchmark[0])
    table = _opened(source)
    column_of = {field: found for field, names in COLUMNS.items() if (found := next((n for n in names if n in table.column_names), None))}
    missing = "question" if "question" not in column_of else "answer" if not {"answer", "solution"} & column_of.keys() else None
    if missing:
        known = ", ".join(table.column_names)[:300]
        raise DataError(f"{path}: no column for {missing}: one must be named {' or '.join(COLUMNS[missing])}, got {known}")
    numbered = sorted(filter(NUMBERED_IMAGE.fullmatch, table.column_names)) if "images" not in column_of else []
    if not numbered and "images" not in column_of and (unread := _image_columns(table.features)):
        raise DataError(f"{path}: no column for images: one must be named {' or '.join(COLUMNS['images'])}, or image_1, got {unread}")
    number = 0
    try:
        for batch in table.select_columns([*column_of.values(), *numbered]).with_format("arrow").iter(ROWS_AT_ONCE):
            for values in batch.to_pylist():
                number += 1
                renamed = {field: values[column] for field, column in column_of.items()}
                if numbered:
                    renamed["images"] = [values[column] for column in numbered if values[column] is not None]
                yield f"{path} row {number}", partial(_problem, source.name, number, renamed)
    except Exception as error:  # as in _opened
        raise DataError(f"{path}: row {number + 1} and those after it cannot be read ({type(error).__name__}: {error!s:.200})") from error


def _image_columns(features: Any) -> list[str]:
    """Return the names of the columns that hold images or lists of them."""
    from datasets import Image, LargeList, List

    inner = {name: kind.feature if isinstance(kind, List | LargeList) else kind for name, kind in features.items()}
    return [name for name, kind in inner.items() if isinstance(kind, Image)]


def parsed(text: str) -> Source:
    """Return the parts of a path `[stream:]NAME[/CONFIG][:SPLIT]`, where NAME is `owner/name` or a folder."""
    name, split, config = text.removeprefix("stream:"), "train", None
    is_streamed = name != text
    if not Path(name).exists() and (found := SPLIT_NAME.search(name)):
        name, split = name[: found.start()], found[1]
    if not Path(name).exists() and name.count("/") == 2 and not name.startswith("/"):
        name, _, config = name.rpartition("/")
    return Source(name, config, split, is_streamed)


def _opened(source: Source) -> Any:
    """Return the table, in which images stay encoded."""
    import datasets

    folder = Path(source.name)
    try:
        if (folder / "dataset_dict.json").is_file():
            return datasets.load_from_disk(source.name)[source.split]
        if (folder / "state.json").is_file():
            return datasets.load_from_disk(source.name)
        table = datasets.load_dataset(source.name, source.config, split=source.split, streaming=source.is_streamed)
        return table if table.column_names else table._resolve_features()
    except Exception as error:  # the library and its servers raise errors of every kind: each means that the data are unavailable
        reason = f"{type(error).__name__}: {str(error).strip()[:300]}"
        raise DataError(f"{source.name}: split {source.split!r} cannot be opened ({reason}); check data.path") from error


def _problem(name: str, number: int, values: dict[str, object]) -> Problem:
    row, folder = checked(HubRow, values), Path(name)
    images = image_sources(row.images, folder)
    choices = row.choices or []
    check_placeholders("\n".join([row.question, *choices]), images, "question")
    worked, answer = (row.solution or "", row.answer) if row.answer is not None else _stated(row.solution or "")
    return to_problem(
        {
            "id": str(number) if row.id is None else str(row.id),
            "question": without_placeholders(row.question),
            "images": images,
            "answer": placeholders_in_words(_gold(answer, choices)) if choices else answer,
            "choices": [placeholders_in_words(choice) for choice in choices],
            "source": Path(name).name,
            "solution": worked,
        },
        folder,
    )


def _stated(solution: str) -> tuple[str, str]:
    """Return (worked solution, answer) of a solution that ends in `<answer> ... </answer>`, as in data sets for R1-style training.

    A solution with its thinking in tags is a whole response and stays unchanged. Any other solution loses its answer.
    """
    thinking, opened, rest = solution.rpartition(ANSWER)
    answer, closed, _ = rest.partition(END_ANSWER)
    if not (opened and closed and answer.strip()):
        raise DataError(f"answer: missing, and the solution {solution[-60:]!r} has none between {ANSWER} tags")
    return solution if END_THINK in thinking else thinking.strip(), answer.strip()


def _gold(answer: str | int | float, choices: list[str]) -> str:
    """Return the text of the choice that an answer names by text, letter or place."""
    if isinstance(answer, int):
        return numbered_option(answer, choices)
    return answer if isinstance(answer, str) and answer in choices else named_option(str(answer), choices)
