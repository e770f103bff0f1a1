"""Problems with worked answers in LLaMA-Factory's two layouts (github.com/hiyouga/LLaMA-Factory, data/README.md).

ShareGPT is a list of messages of a user and the assistant. Alpaca has `instruction`, `input` and `output`. The columns' names come from
`dataset_info.json` next to the file if it names the file, else from the row. The gold answer stands between `<answer>` tags in the
assistant's message. The whole message is the problem's worked solution, which `distil.source: dataset` takes unchanged as a trace.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, read_object, without_placeholders
from ovt_ray.data.formats.tables import TableRow, check_placeholders, image_sources, table_rows
from ovt_ray.data.rows import to_problem
from reward.verifier.extract import extract_answer


class Columns(PublishedRow):
    """Names of the columns, with LLaMA-Factory's defaults."""

    prompt: str = "instruction"
    query: str = "input"
    response: str = "output"
    messages: str = "conversations"
    images: str = "images"


class Tags(PublishedRow):
    """Names inside a message, with LLaMA-Factory's defaults."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    system_tag: str = "system"


class Layout(PublishedRow):
    """An entry of `dataset_info.json`."""

    model_config = ConfigDict(frozen=True)
    file_name: str = ""
    formatting: Literal["alpaca", "sharegpt"] = "alpaca"
    columns: Columns = Columns()
    tags: Tags = Tags()


OPENAI = Layout(
    formatting="sharegpt",
    columns=Columns(messages="messages"),
    tags=Tags(role_tag="role", content_tag="content", user_tag="user", assistant_tag="assistant"),
)
SHAREGPT = Layout(formatting="sharegpt")
ALPACA = Layout()


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a file of JSON, JSON lines or Parquet. Held-out rows have a path of their own."""
    layout = _described(path)
    for row in table_rows(path):
        yield row.place, partial(_problem, layout, row)


def _described(path: Path) -> Layout | None:
    """Return the file's entry in `dataset_info.json` next to it, or None."""
    about = path.parent / "dataset_info.json"
    if not about.is_file():
        return None
    entries = read_object(about).values()
    found = next((entry for entry in entries if isinstance(entry, dict) and entry.get("file_name") == path.name), None)
    try:
        return None if found is None else checked(Layout, found)
    except DataError as error:
        raise DataError(f"{about}: the entry of {path.name}: {error}") from error


def _problem(described: Layout | None, source: TableRow) -> Problem:
    if not isinstance(source.values, dict):
        raise DataError(f"row: must be an object, got a {type(source.values).__name__}")
    if given := [name for name in ("videos", "audios") if source.values.get(name)]:
        raise DataError(f"{given[0]}: only images are read; leave such rows out")
    layout = described or _told_from(source.values)
    question, response = _alpaca(source.values, layout.columns) if layout.formatting == "alpaca" else _turns(source.values, layout)
    found = extract_answer(response)
    if found.answer is None:
        raise DataError(f"the assistant's message {found.reason}; it must be <think> ... </think> <answer> ... </answer>")
    images = image_sources(source.values.get(layout.columns.images), source.folder)
    check_placeholders(question, images, "the user's message")
    return to_problem(
        {
            "id": source.id,
            "question": without_placeholders(question),
            "images": images,
            "answer": found.answer,
            "source": source.folder.name,
            "solution": response,
        },
        source.folder,
    )


def _told_from(values: Mapping[str, object]) -> Layout:
    return OPENAI if "messages" in values else SHAREGPT if "conversations" in values else ALPACA


def _alpaca(values: Mapping[str, object], columns: Columns) -> tuple[str, str]:
    """Return (question, response), with the instruction and its input joined as in LLaMA-Factory."""
    if values.get("history"):
        raise DataError("history: a problem is one question and one answer; leave such rows out")
    question, query, response = _text(values, columns.prompt), values.get(columns.query) or "", _text(values, columns.response)
    if not isinstance(query, str):
        raise DataError(f"{columns.query}: must be text, got a {type(query).__name__}")
    return (f"{question}\n{query}" if query else question), response


def _turns(values: Mapping[str, object], layout: Layout) -> tuple[str, str]:
    """Return (question, response) of a conversation with a turn of each."""
    tags, name = layout.tags, layout.columns.messages
    messages = values.get(name)
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"{name}: must be a list of messages")
    turns = [message for message in messages if message.get(tags.role_tag) != tags.system_tag]
    if [turn.get(tags.role_tag) for turn in turns] != [tags.user_tag, tags.assistant_tag]:
        roles = [str(message.get(tags.role_tag))[:20] for message in messages[:8]]
        raise DataError(f"{name}: must be {tags.user_tag!r}, then {tags.assistant_tag!r}, one question and one answer, got {roles}")
    return _text(turns[0], tags.content_tag), _text(turns[1], tags.content_tag)


def _text(values: Mapping[str, object], name: str) -> str:
    text = values.get(name)
    if not isinstance(text, str):
        raise DataError(f"{name}: must be text, got {'nothing' if text is None else f'a {type(text).__name__}'}")
    return text
