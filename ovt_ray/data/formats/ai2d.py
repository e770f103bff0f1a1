"""Problems of AI2D in its own folders (allenai.org/data/diagrams; github.com/allenai/dqa-net reads them).

Kembhavi et al., "A Diagram Is Worth A Dozen Images", ECCV 2016. `questions/<image>.json` holds the questions about `images/<image>`.
Questions about letters (`abcLabel`) are left out, as the letters are not in the pictures. `ai2d_test_ids.csv`, a separate download, names
the held-out images.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Problem
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import PublishedRow, checked, image_in, numbered_option, read_json, refused
from ovt_ray.data.rows import LeftOut, to_problem


class Ai2dQuestion(PublishedRow):
    """The fields of a question that this reader uses. The question itself is the key."""

    abcLabel: bool
    answerTexts: list[str]
    correctAnswer: int
    questionId: str


class Ai2dFile(PublishedRow):
    """The questions about an image."""

    imageName: str
    questions: dict[str, object]


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the questions of a split in the order of their images' names. `path` is the folder `ai2d`."""
    held_out = _held_out(path / "ai2d_test_ids.csv")
    files = sorted((path / "questions").glob("*.json"))
    if not files:
        raise DataError(f"{path / 'questions'}: no *.json in it; data.path must be AI2D's folder")
    for file in files:
        if (file.name.split(".")[0] in held_out) is (split == "eval"):
            yield from _rows(path, file)


def _rows(path: Path, file: Path) -> Iterator[Row]:
    """Yield the questions of a file, or a single row with the reason why it cannot be read."""
    try:
        about = checked(Ai2dFile, read_json(file))
    except DataError as error:
        yield str(file), partial(refused, error)
        return
    for question, values in about.questions.items():
        yield f"{file} question {question[:60]!r}", partial(_problem, path / "images", about.imageName, question, values)


def _held_out(file: Path) -> frozenset[str]:
    try:
        return frozenset(file.read_text(encoding="utf-8").split())
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); download AI2D's list of test images to it") from error


def _problem(images: Path, name: str, question: str, values: object) -> Problem:
    row = checked(Ai2dQuestion, values)
    if row.abcLabel:
        raise LeftOut("it asks about letters that are not in the picture")
    return to_problem(
        {
            "id": row.questionId,
            "question": question,
            "images": [image_in(images, name)],
            "answer": numbered_option(row.correctAnswer, row.answerTexts),
            "choices": row.answerTexts,
            "source": "ai2d",
        },
        images,
    )
