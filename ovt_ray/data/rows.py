"""Turns rows of data into checked problems, and back. Every rule that a row must keep stands here, whatever its file."""

import base64
import builtins
import difflib
import math
import os
import re
import reprlib
import string
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from ovt_ray.core.errors import DataError
from ovt_ray.core.images import BadImage, image_fault, is_address
from ovt_ray.core.types import AnswerKind, ImageSource, Problem
from reward.verifier.equivalence import check_gold
from reward.verifier.kinds import infer_kind

DATA_URI = re.compile(r"data:image/[a-z.+-]+;base64,")
YES_NO = frozenset({"yes", "no"})
MAX_ANSWER_CHARS = 1000


class LeftOut(DataError):
    """A row, or a count of rows, that its format leaves out by rule, at any setting of `data.bad_rows`."""


class BenchmarkError(DataError):
    """A data set for evaluation was asked for training problems."""


def _text_of_number(value: object) -> object:
    """Return a JSON number as text, so that `"answer": 6` is the same as `"answer": "6"`. Other values are unchanged."""
    if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    return value


def _image_source(value: object) -> ImageSource:
    """Return a path, a web address, or the bytes of an image. It is given as bytes, as base64, or as the struct of `datasets`."""
    if isinstance(value, dict) and value.keys() == {"bytes", "path"}:
        value = value["bytes"] if value["bytes"] is not None else value["path"]
    if isinstance(value, bytes) and value:
        return value
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        return base64.b64decode(value["base64"], validate=True)
    if isinstance(value, str) and (match := DATA_URI.match(value)):
        return base64.b64decode(value[match.end() :], validate=True)
    if isinstance(value, str) and "://" in value[:10] and not is_address(value):
        raise ValueError("must be on this machine or at an http(s) address: store it and give its path")
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError('must be a path, {"base64": "..."}, bytes, or {"bytes": ..., "path": ...}')


class Encoded(BaseModel):
    """An image inside the row."""

    base64: str


class ImageStruct(BaseModel):
    """An image in the form that the `datasets` library writes to Parquet: its bytes, or without bytes its path."""

    bytes: builtins.bytes | None
    path: str | None


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
AnswerText = Annotated[Text, Field(max_length=MAX_ANSWER_CHARS), BeforeValidator(_text_of_number, json_schema_input_type=str | int | float)]
Image = Annotated[ImageSource, PlainValidator(_image_source, json_schema_input_type=str | Encoded | ImageStruct)]


class ProblemRow(BaseModel):
    """A problem: a question about images with a gold final answer."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)

    id: Annotated[Text, BeforeValidator(_text_of_number, json_schema_input_type=str | int | float)]
    """Name of the problem, unique among the rows of its file."""
    question: Text
    """Text of the question, without image placeholders, choices or instructions on the format."""
    images: list[Image] = []
    """Images in the order of the prompt, which shows them before the question; empty for a question about text. PNG, JPEG, WebP, GIF and
    BMP are read. An image is a path relative to the folder of the row's file, a `data:` URI, `{"base64": ...}`, or an `http(s)://` address
    on one of `data.image_hosts`. In Parquet it may also be bytes, or a struct of bytes and path."""
    answer: AnswerText
    """Gold answer. For a choice it is the text of one of the choices."""
    kind: Annotated[AnswerKind | None, Field(strict=False)] = None
    """Rule that compares an answer with the gold answer. If left out, it follows from choices and answer."""
    choices: list[AnswerText] = []
    """Options, at most 26, shown as (A), (B), ...; only for kind `choice`."""
    precision: Annotated[int | None, Field(ge=0)] = None
    """Number of decimals to compare after rounding. If left out, values must be equal."""
    unit: str = ""
    """Unit of a gold answer that does not include its unit."""
    source: str = ""
    """Data set or kind of question. Mixtures (`problems.sources`) select by it."""
    solution: str = ""
    """Worked solution that ends before the final answer. `distil.source=dataset` learns from it."""


def to_problem(values: object, folder: Path) -> Problem:
    """Return the problem of a row of plain values. Relative image paths start at `folder`. Images at web addresses are not checked.

    Raises DataError that names each field that breaks a rule, its value and the rule.
    """
    try:
        row = ProblemRow.model_validate(values)
    except ValidationError as error:
        raise DataError("; ".join(explain(problem, ProblemRow) for problem in error.errors())) from error
    kind = row.kind or infer_kind(row.answer, row.choices)
    _check_choices(row, kind)
    images = tuple(_resolved(folder, source) for source in row.images)
    for position, source in enumerate(images):
        if not is_address(source) and (reason := image_fault(source)):
            raise BadImage(f"images[{position}]: {reason}", source)
    problem = Problem(
        id=row.id,
        question=row.question,
        images=images,
        answer=row.answer,
        kind=kind,
        choices=tuple(row.choices),
        precision=row.precision,
        unit=row.unit,
        source=row.source,
        solution=row.solution,
    )
    check_gold(problem)
    return problem


def stored_problem(values: object, folder: Path) -> Problem:
    """Return the problem of a row that `problem_row` wrote, as `to_problem` does. Raises DataError if an image is at a web address."""
    problem = to_problem(values, folder)
    if remote := next(filter(is_address, problem.images), None):
        raise DataError(f"images: {remote!r} must be on this machine: only the images of a data set are fetched; give its path")
    return problem


def _resolved(folder: Path, source: ImageSource) -> ImageSource:
    if isinstance(source, bytes) or is_address(source):
        return source
    try:
        return str((folder / source).resolve())
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, half a surrogate, a loop of links
        raise DataError(f"images: {source[:200]!r} cannot be a path ({error}); correct it") from error


def problem_row(problem: Problem, folder: Path) -> dict[str, object]:
    """Return a problem as plain values for JSON. `stored_problem(row, folder)` reads them."""
    return {
        "id": problem.id,
        "question": problem.question,
        "images": [_stored_image(source, folder.resolve()) for source in problem.images],
        "answer": problem.answer,
        "kind": problem.kind.value,
        "choices": list(problem.choices),
        "precision": problem.precision,
        "unit": problem.unit,
        "source": problem.source,
        "solution": problem.solution,
    }


def explain(problem: ErrorDetails, row: type[BaseModel]) -> str:
    """Return field, value and rule of a mistake in a row."""
    field = ".".join(str(part) for part in problem["loc"]) or "row"
    if problem["type"] == "missing":
        return f"{field}: missing"
    if problem["type"] == "extra_forbidden":
        known = list(row.model_fields)
        nearest = difflib.get_close_matches(field, known, n=1, cutoff=0.5)
        return f"{field}: unknown field; " + (f"did you mean {nearest[0]!r}?" if nearest else f"known fields: {', '.join(known)}")
    rule = "must not be empty" if problem["type"] == "string_too_short" else problem["msg"]
    return f"{field}: {rule}, got {reprlib.repr(problem['input'])}"


def _check_choices(row: ProblemRow, kind: AnswerKind) -> None:
    if kind is AnswerKind.CHOICE and not row.choices:
        raise DataError("choices: missing; kind 'choice' needs them")
    if len(row.choices) > len(string.ascii_uppercase):
        raise DataError(f"choices: {len(row.choices)}, but there are letters for {len(string.ascii_uppercase)}; leave some out")
    if kind is AnswerKind.CHOICE and row.answer not in row.choices:
        raise DataError(f"answer: {row.answer!r} is not one of the choices {row.choices}; write the text of one of them")
    if kind is not AnswerKind.CHOICE and row.choices:
        raise DataError(f"choices: only kind 'choice' has them, got kind {kind.value!r}")


def _stored_image(source: ImageSource, folder: Path) -> str | dict[str, str]:
    if isinstance(source, bytes):
        return {"base64": base64.b64encode(source).decode()}
    path = Path(source).resolve()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)
