"""Writing files so that a crash leaves the old content or the new, and reading what a crash left.

A JSON-lines file may end in half a line when its writer died; every reader here ignores such an end, and a writer removes it first.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ovt_ray.core.errors import DataError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by new content in one step: a crash or a full disk leaves the old file as it was. Text becomes UTF-8."""
    with replacing(path) as file:
        file.write(content.encode(errors="replace") if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to that takes the place of `path` in one step when the block ends, and never if it raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_json_atomically(path: Path, value: object) -> None:
    """Replace a file by indented JSON in one step. NaN and infinities are refused with ValueError: they are no JSON."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_json_lines_atomically(path: Path, rows: Iterable[object]) -> None:
    """Replace a file by one line of JSON per row, in one step."""
    write_atomically(path, "".join(_json_line(row) for row in rows))


def append_json_line(path: Path, row: object) -> None:
    """Add one line of JSON that is on the disk when this returns. The file must not end in half a line."""
    append_json_lines(path, [row])


def append_json_lines(path: Path, rows: Iterable[object]) -> None:
    """Add one line of JSON per row, all on the disk when this returns. The file must not end in half a line."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(_json_line(row) for row in rows)
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[Any]:
    """Return the rows of a file that `append_json_line` wrote, without a half-written end; none for a missing file.

    Raises DataError naming the line if any other line is not JSON.
    """
    if not path.exists():
        return []
    rows = []
    *lines, _torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise DataError(f"{path} line {number}: not JSON ({error}); remove the line") from error
    return rows


def drop_torn_end(path: Path) -> None:
    """Cut off what follows the last line end of a file, if it exists."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _json_line(row: object) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _sync_folder(folder: Path) -> None:
    """Put a rename within the folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
