"""Problems from a file of JSON lines. Each line is a `ProblemRow`. Image paths start at the file's folder. Empty lines are skipped."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.errors import DataError
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.reading import refused
from ovt_ray.data.rows import to_problem


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield a row per line. The file has a single split, whichever split is requested."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _row(f"{path} row {number}", line, path.parent)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check data.path and data.eval_path") from error


def _row(place: str, line: bytes, folder: Path) -> Row:
    """Return a row's place, with its id if it has one, and the function that makes its problem."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return place, partial(refused, DataError(f"not JSON ({error}); write one JSON object per line"))
    if isinstance(values, dict) and "id" in values:
        place = f"{place} (id {str(values['id'])[:60]!r})"
    return place, partial(to_problem, values, folder)
