"""Problems from files of JSON lines, and back to rows."""

import base64
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ovt_ray.config import DataConfig
from ovt_ray.errors import DataError
from ovt_ray.problem_rows import LoadedProblems, collect, settle, to_problem
from ovt_ray.types import ImageSource, Problem


def load_problems(config: DataConfig) -> LoadedProblems:
    """Return the checked problems of a `jsonl` file and those held out of it.

    Held-out problems come from `eval_path`, or are chosen by a hash of their images, so that no image is on both sides
    and the choice does not depend on the order of rows. Raises DataError listing the bad rows, unless they are dropped.
    """
    assert config.path is not None
    problems, bad = read_problems(config.path)
    if config.eval_path:
        held_out, more = read_problems(config.eval_path)
        train, held_out, bad = problems, held_out[: config.num_eval], bad + more
    dropped = settle(bad, config.bad_rows)
    if not config.eval_path:
        train, held_out = _hold_out(problems, config.num_eval)
        if num_lost := len(problems) - len(train) - len(held_out):
            dropped += (f"{config.path}: {num_lost} problems are about an image of a held-out problem and are left out of training",)
    return LoadedProblems(train=tuple(train), held_out=tuple(held_out), dropped=dropped)


def read_problems(path: Path) -> tuple[list[Problem], list[str]]:
    """Return the problems of a file of JSON lines, and one message per row that is none. Empty lines are skipped."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check data.path and data.eval_path") from error
    return collect(_rows(path, content))


def problem_row(problem: Problem, folder: Path) -> dict[str, object]:
    """Return a problem as plain values for JSON, read again by `to_problem(row, folder)`."""
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


def _rows(path: Path, content: bytes) -> Iterator[tuple[str, Callable[[], Problem]]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield _row(f"{path} row {number}", line, path.parent)


def _row(place: str, line: bytes, folder: Path) -> tuple[str, Callable[[], Problem]]:
    """Return one row's place, with its id where it has one, and what makes a problem of it."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return place, partial(_raise, f"not JSON ({error}); write one JSON object per line")
    if isinstance(values, dict) and "id" in values:
        place = f"{place} (id {str(values['id'])[:60]!r})"
    return place, partial(to_problem, values, folder)


def _raise(message: str) -> Problem:
    raise DataError(message)


def _hold_out(problems: list[Problem], num_held_out: int) -> tuple[list[Problem], list[Problem]]:
    """Return (train, held out), in the order of the file; a problem about a held-out image is in neither."""
    hashes = {problem.id: _content_hashes(problem) for problem in problems}
    held_ids = sorted(hashes, key=lambda id: (hashes[id], id))[:num_held_out]
    held_hashes = {digest for id in held_ids for digest in hashes[id]}
    train = [problem for problem in problems if held_hashes.isdisjoint(hashes[problem.id])]
    return train, [problem for problem in problems if problem.id in set(held_ids)]


def _content_hashes(problem: Problem) -> list[str]:
    """Return a hash of each of a problem's images, wherever its file lies; of its id where it has none."""
    contents = [source if isinstance(source, bytes) else Path(source).read_bytes() for source in problem.images]
    return [hashlib.sha256(content).hexdigest() for content in contents or [problem.id.encode()]]


def _stored_image(source: ImageSource, folder: Path) -> str | dict[str, str]:
    if isinstance(source, bytes):
        return {"base64": base64.b64encode(source).decode()}
    path = Path(source).resolve()
    return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)
