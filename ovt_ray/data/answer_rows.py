"""The rows that `ovt-ray score` reads: one model answer each, with its gold answer."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.data.rows import MAX_ANSWER_CHARS, Text, explain
from reward.verifier.choices import gold_choice, names_a_choice
from reward.verifier.kinds import infer_kind


def _plain_text(value: object) -> object:
    """Return a JSON number, truth value or list as text: benchmarks write `6`, `"6"` and `[0, 4]`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and math.isfinite(value):
        return str(value)
    return json.dumps(value) if isinstance(value, list) else value


def _whole(value: object) -> object:
    """Return `1.0`, `"1"` and `"1.0"` as `1`."""
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return int(number) if isinstance(number, float) and number.is_integer() else value


def _no_number(name: str) -> None:
    """Return None: `NaN` and `Infinity` are no JSON; pandas writes them for missing values."""


def _finite(number: str) -> float | str:
    """Return a number too large for a float as its text."""
    return float(number) if math.isfinite(float(number)) else number


def _kind(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


GoldText = Annotated[Text, Field(max_length=MAX_ANSWER_CHARS), BeforeValidator(_plain_text)]
AnyText = Annotated[str, BeforeValidator(_plain_text)]


class ScoreRow(BaseModel):
    """The known fields of a row; all other fields are carried over to the output."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    response: AnyText | None = None
    """The model's whole text."""
    extraction: AnyText | None = None
    """The final answer, if another program has read it from the response: it is scored as it is."""
    gold: GoldText | None = None
    answer: GoldText | None = None
    """The gold answer under another name; `gold` takes precedence."""
    question: AnyText | None = None
    kind: Annotated[AnswerKind | None, Field(strict=False), BeforeValidator(_kind)] = None
    """None infers it from gold answer and choices."""
    choices: list[GoldText] | None = None
    precision: Annotated[int | None, BeforeValidator(_whole), Field(ge=0)] = None
    unit: AnyText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLine:
    """One line of the input."""

    number: int
    """Place in the file, counted from 1."""
    row: dict[str, Any]
    """The object as it was read; only the line's number if the line is no object."""
    problem: Problem | None = None
    """None for a bad line."""
    text: str = ""
    """Text to score: the extraction if there is one, else the response."""
    is_extracted: bool = False
    fault: str = ""
    """Message about a bad line; empty for a good one."""


def read_lines(path: Path) -> Iterator[AnswerLine]:
    """Yield each line of a file of JSON lines, bad ones too, reading as it goes. Empty lines are skipped."""
    with path.open("rb") as file:
        for number, content in enumerate(file, start=1):
            if content.strip():
                yield _line(number, content)


def count_lines(path: Path) -> int:
    """Return the number of lines that `read_lines` yields. Raises DataError if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return sum(1 for content in file if content.strip())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give a file of JSON lines") from error


def _line(number: int, content: bytes) -> AnswerLine:
    try:
        values = json.loads(content, parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        return AnswerLine(number=number, row={"line": number}, fault=f"line {number}: not JSON ({error}); write one JSON object per line")
    if not isinstance(values, dict):
        return AnswerLine(number=number, row={"line": number}, fault=f"line {number}: a {type(values).__name__}, not a JSON object")
    try:
        row = ScoreRow.model_validate(values)
        text = row.response if row.extraction is None else row.extraction
        if text is None:
            raise DataError("response: missing, and there is no extraction")
        problem = _problem(row, f"line {number}")
    except ValidationError as error:
        fault = "; ".join(explain(problem, ScoreRow) for problem in error.errors())
        return AnswerLine(number=number, row=values, fault=f"line {number}: {fault}")
    except (DataError, ValueError) as error:
        return AnswerLine(number=number, row=values, fault=f"line {number}: {error}")
    return AnswerLine(number=number, row=values, problem=problem, text=text, is_extracted=row.extraction is not None)


def _problem(row: ScoreRow, name: str) -> Problem:
    """Return the problem of a row. Raises DataError or ValueError if its gold answer cannot be one of its choices."""
    gold = row.answer if row.gold is None else row.gold
    if gold is None:
        raise DataError("gold: missing, and so is answer")
    choices = tuple(row.choices or ())
    kind = row.kind or infer_kind(gold, choices)
    if kind is AnswerKind.CHOICE or names_a_choice(gold, choices):  # MathVista calls the kind of an option's text the row's
        kind = AnswerKind.CHOICE
        gold, choices = gold_choice(gold, choices)
    return Problem(
        id=name,
        question=row.question or "",
        images=(),
        answer=gold,
        kind=kind,
        choices=choices,
        precision=row.precision,
        unit=row.unit or "",
    )
