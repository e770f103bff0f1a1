"""Problems in the columns that verl reads (github.com/volcengine/verl, docs/preparation/prepare_data.rst).

`prompt` is a list of messages, `reward_model.ground_truth` the answer, `images` a list. verl's own scripts put the format's instruction
into the prompt and keep the question in `extra_info.question`. This reader prefers that question, as instructions come from
`model.instruction`.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, without_placeholders
from ovt_ray.data.formats.tables import TableRow, check_placeholders, image_sources, table_rows
from ovt_ray.data.rows import to_problem


class Message(PublishedRow):
    """A turn of a prompt."""

    role: str
    content: str


class RewardModel(PublishedRow):
    """The gold answer."""

    ground_truth: str | int | float


class ExtraInfo(PublishedRow):
    """Fields of the original row that verl's scripts keep."""

    question: str | None = None


class VerlRow(PublishedRow):
    """The fields of a row that this reader uses."""

    data_source: str | None = None
    prompt: list[Message]
    reward_model: RewardModel
    extra_info: ExtraInfo | None = None
    images: Any = None


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a file of Parquet, JSON or JSON lines, or of a folder of them. Held-out rows have a path of their own."""
    for row in table_rows(path):
        yield row.place, partial(_problem, row)


def _problem(source: TableRow) -> Problem:
    row = checked(VerlRow, source.values)
    turns = [message for message in row.prompt if message.role != "system"]
    if [turn.role for turn in turns] != ["user"]:
        raise DataError(f"prompt: must be one user message after an optional system one, got {[turn.role for turn in row.prompt][:8]}")
    images = image_sources(row.images, source.folder)
    check_placeholders(turns[0].content, images, "prompt")
    question = (row.extra_info and row.extra_info.question) or turns[0].content
    return to_problem(
        {
            "id": source.id,
            "question": without_placeholders(question),
            "images": images,
            "answer": row.reward_model.ground_truth,
            "source": row.data_source or "",
        },
        source.folder,
    )
