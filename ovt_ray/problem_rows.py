"""From rows of data to checked problems: every rule that a row must keep stands here, whatever file it came from."""

import base64
import difflib
import io
import math
import reprlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from ovt_ray.errors import DataError
from ovt_ray.types import AnswerKind, ImageSource, Problem
from reward.equivalence import check_gold
from reward.kinds import infer_kind

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
MAX_IMAGE_PIXELS = 64 * 2**20
"""An image whose header promises more is refused before it is decoded: a few bytes can ask for all the memory there is."""
MAX_ASPECT_RATIO = 200
"""Qwen2.5-VL's image processor refuses longer or wider images."""
MAX_LISTED = 20
"""Bad rows named in one error."""
YES_NO = frozenset({"yes", "no"})
MAX_ANSWER_CHARS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProblems:
    """Problems to learn from and problems never to learn from."""

    train: tuple[Problem, ...]
    """In the order of their file."""
    held_out: tuple[Problem, ...]
    dropped: tuple[str, ...]
    """One message per row that was left out, for a person."""

    def __post_init__(self) -> None:
        if not self.train or not self.held_out:
            raise DataError(
                f"{len(self.train)} problems to learn from and {len(self.held_out)} held out, {len(self.dropped)} rows dropped: "
                "both need at least one; lower data.num_eval, or give more problems"
            )


def _text_of_number(value: object) -> object:
    """Return a JSON number as text, so that `"answer": 6` is as good as `"answer": "6"`; other values as they are."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(value)
    return value


def _image_source(value: object) -> ImageSource:
    """Return a path, or the bytes of an image given as base64."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, dict) and value.keys() == {"base64"} and isinstance(value["base64"], str):
        return base64.b64decode(value["base64"], validate=True)
    raise ValueError('must be a path or {"base64": "..."}')


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Answer = Annotated[Text, Field(max_length=MAX_ANSWER_CHARS), BeforeValidator(_text_of_number)]


class ProblemRow(BaseModel):
    """A `Problem` as a row of JSON. `kind` may be left out: it then follows from choices and answer."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    id: Annotated[Text, BeforeValidator(_text_of_number)]
    question: Text
    images: list[Annotated[ImageSource, PlainValidator(_image_source)]] = []
    """Paths relative to the folder of the row's file, or base64."""
    answer: Answer
    kind: Annotated[AnswerKind | None, Field(strict=False)] = None
    choices: list[Answer] = []
    precision: Annotated[int | None, Field(ge=0)] = None
    unit: str = ""
    source: str = ""
    solution: str = ""


def to_problem(values: object, folder: Path) -> Problem:
    """Return the problem of one row of plain values; relative image paths start at `folder`.

    Raises DataError naming each field that breaks a rule, its value and the rule.
    """
    try:
        row = ProblemRow.model_validate(values)
    except ValidationError as error:
        raise DataError("; ".join(explain(problem, ProblemRow) for problem in error.errors())) from error
    kind = row.kind or infer_kind(row.answer, row.choices)
    _check_choices(row, kind)
    images = tuple(source if isinstance(source, bytes) else str((folder / source).resolve()) for source in row.images)
    for position, source in enumerate(images):
        if reason := image_fault(source):
            raise DataError(f"images[{position}]: {reason}")
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


def image_fault(source: ImageSource) -> str | None:
    """Return why an image cannot be used, with its path, or None after decoding it whole."""
    from PIL import Image

    name = repr(source) if isinstance(source, str) else f"{len(source)} bytes of base64"
    if isinstance(source, str) and not Path(source).is_file():
        return f"{name}: no such file"

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=IMAGE_FORMATS)

    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning), opened() as image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                return f"{name}: {width} x {height} pixels, more than {MAX_IMAGE_PIXELS:,}; scale it down"
            if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
                return f"{name}: {width} x {height} pixels, sides in a ratio above {MAX_ASPECT_RATIO}; crop or pad it"
            image.verify()  # checksums; leaves the image unusable
        with opened() as image:
            image.load()  # notices a truncated file, which verify does not for every format
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{name}: not a readable {', '.join(IMAGE_FORMATS)} image ({error})"
    return None


def collect(rows: Iterable[tuple[str, Callable[[], Problem]]]) -> tuple[list[Problem], list[str]]:
    """Return the problems that rows make, and one message per row that makes none or repeats an id.

    A row is a name for messages and a function that returns its problem or raises DataError.
    """
    problems: list[Problem] = []
    bad: list[str] = []
    place_of: dict[str, str] = {}
    for place, make in rows:
        try:
            problem = make()
            if problem.id in place_of:
                raise DataError(f"id: {problem.id!r} is that of {place_of[problem.id]} too; ids must differ")
        except DataError as error:
            bad.append(f"{place}: {error}")
            continue
        place_of[problem.id] = place
        problems.append(problem)
    return problems, bad


def settle(bad: list[str], policy: Literal["drop", "refuse"]) -> tuple[str, ...]:
    """Return the messages of rows to leave out; where bad rows are refused, raise DataError with the first of them."""
    if bad and policy == "refuse":
        more = [f"... and {len(bad) - MAX_LISTED} more"] if len(bad) > MAX_LISTED else []
        count = f"{len(bad)} row{'s' if len(bad) > 1 else ''} cannot be used"
        raise DataError("\n".join([f"{count}; correct them, or leave them out with data.bad_rows=drop", *bad[:MAX_LISTED], *more]))
    return tuple(bad)


def explain(problem: ErrorDetails, row: type[BaseModel]) -> str:
    """Return field, value and rule of one mistake in a row."""
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
    if kind is AnswerKind.CHOICE and row.answer not in row.choices:
        raise DataError(f"answer: {row.answer!r} is not one of the choices {row.choices}; write the text of one of them")
    if kind is not AnswerKind.CHOICE and row.choices:
        raise DataError(f"choices: only kind 'choice' has them, got kind {kind.value!r}")
