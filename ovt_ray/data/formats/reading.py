"""Shared parts of the readers of published data: JSON files, rows with known fields, images inside the data's folder, options by letter.

No function trusts a file: any content of it raises DataError at worst.
"""

import json
import os
import re
import string
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Split
from ovt_ray.data.rows import BenchmarkError, explain

PLACEHOLDER = re.compile(r"<image[ _]?\d{0,4}>")
"""Mark of an image in a data set's text: `<image>`, `<image1>`, `<image 1>`, `<image_1>`."""


class PublishedRow(BaseModel):
    """Base of published rows. It declares the fields in use and ignores all others."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


Model = TypeVar("Model", bound=PublishedRow)


def checked(model: type[Model], values: object) -> Model:
    """Return a row with checked fields. Raises DataError that names each field that breaks a rule, with its value and the rule."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        message = "; ".join(explain(problem, model) for problem in error.errors())
        raise DataError(message.encode(errors="backslashreplace").decode()) from error  # names of fields may hold half a surrogate


def read_json(path: Path) -> object:
    """Return the value of a JSON file."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check data.path") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); copy the file again") from error


def read_list(path: Path, *keys: str) -> list[object]:
    """Return the list in a JSON file, at its top or under one of the keys."""
    values = read_json(path)
    if isinstance(values, dict):
        values = next((values[key] for key in keys if key in values), values)
    if not isinstance(values, list):
        under = f", or an object with {keys[0]!r}" if keys else ""
        raise DataError(f"{path}: must be a list of rows{under}, got a {type(values).__name__}; check data.format and data.path")
    return values


def read_object(path: Path) -> dict[str, object]:
    """Return the object of rows by id in a JSON file."""
    values = read_json(path)
    if not isinstance(values, dict):
        raise DataError(f"{path}: must be an object of problems by id, got a {type(values).__name__}; check data.format and data.path")
    return values


def json_lines(path: Path) -> Iterator[object]:
    """Yield the value of each line of a JSON-lines file, or the text of a line that is not JSON. Empty lines are skipped."""
    try:
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    yield _line(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check data.path") from error


def _line(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line.decode(errors="replace")  # a text is no row, so the check of the row reports it


def folder_in(path: Path, *inner: str) -> Path:
    """Return the first of the inner folders that exists, else the data set's folder itself."""
    return next((path / name for name in inner if (path / name).is_dir()), path)


def image_in(folder: Path, name: str) -> str:
    """Return the path of an image of the data set. Raises DataError for a name that leads out of its folder. Links are followed."""
    root = os.path.abspath(folder)
    if "://" in name[:10]:
        raise DataError(f"image {name[:200]!r}: must be the name of a file, not a web address; store it in {root} and give its path")
    path = os.path.abspath(os.path.join(root, name))
    if "\0" in name or not path.startswith(root.rstrip(os.sep) + os.sep):
        raise DataError(f"image {name[:200]!r}: must be a file inside the data set's folder {root}; copy it there")
    return path


def named_option(letter: str, choices: Sequence[str]) -> str:
    """Return the text of the option with an answer's letter, such as `C` or `(C)`."""
    bare = letter.strip(" ().").upper()
    place = string.ascii_uppercase.find(bare) if len(bare) == 1 else -1
    if not 0 <= place < len(choices):
        raise DataError(f"answer: {letter[:40]!r} is not the letter of one of {len(choices)} choices; correct it")
    return choices[place]


def numbered_option(place: int, choices: Sequence[str]) -> str:
    """Return the text of the option at a place, counted from 0."""
    if not 0 <= place < len(choices):
        raise DataError(f"answer: {place} is not the place of one of {len(choices)} choices, counted from 0; correct it")
    return choices[place]


def without_placeholders(text: str) -> str:
    """Return a question without the marks of its images, which are all shown before it.

    A mark at the beginning or the end of a line is removed. A mark inside a sentence becomes a word.
    """
    lines = []
    for line in text.split("\n"):
        bare = _bare(line)
        if bare or not line.strip():
            lines.append(placeholders_in_words(bare))
    return "\n".join(lines).strip()


def placeholders_in_words(text: str) -> str:
    """Return a text with `image 2` for `<image 2>`, and `the image` for `<image>`."""
    return PLACEHOLDER.sub(lambda found: f"image {number}" if (number := found[0].strip("<image_ >")) else "the image", text)


def _bare(line: str) -> str:
    """Return a line without placeholders at its ends. A line without such placeholders is unchanged."""
    found = list(PLACEHOLDER.finditer(line))
    start, end = 0, len(line)
    while found and not line[start : found[0].start()].strip():
        start = found.pop(0).end()
    while found and not line[found[-1].end() : end].strip():
        end = found.pop().start()
    return line if (start, end) == (0, len(line)) else line[start:end].strip()


def refused(error: DataError) -> Problem:
    """Raise the error. This is the function of a row that is known to make no problem."""
    raise error


def refuse_training(split: Split, name: str) -> None:
    """Raise BenchmarkError if a benchmark is asked for training problems."""
    if split == "train":
        raise BenchmarkError(f"{name} is an evaluation set, never to be trained on: give it as data.eval_path, with its data.eval_format")
