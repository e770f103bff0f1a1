"""Writes files such that a crash leaves either the old or the new content, and reads files after a crash.

A JSON-lines file may end in half a line if its writer died. Every reader here ignores such an end, and a writer removes it first.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ovt_ray.core.errors import DataError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace a file by new content in one step. A crash or a full disk leaves the old file unchanged. Text becomes UTF-8."""
    with replacing(path) as file:
        file.write(content.encode(errors="replace") if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to. It replaces `path` in one step when the block ends, and never if the block raises."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with scratch.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # before the rename, else a power failure could leave the new name with half the content
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_json_atomically(path: Path, value: object) -> None:
    """Replace a file by indented JSON in one step. Raises ValueError for NaN and infinities, which are no JSON."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_json_lines_atomically(path: Path, rows: Iterable[object]) -> None:
    """Replace a file in one step by a line of JSON per row."""
    write_atomically(path, "".join(_json_line(row) for row in rows))


def append_json_line(path: Path, row: object) -> None:
    """Append a line of JSON and put it on the disk. The file must not end in half a line."""
    append_json_lines(path, [row])


def append_json_lines(path: Path, rows: Iterable[object]) -> None:
    """Append a line of JSON per row and put all lines on the disk. The file must not end in half a line."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(_json_line(row) for row in rows)
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[Any]:
    """Return the rows of a file that `append_json_line` wrote, without a half-written end. A missing file has no rows.

    Raises DataError that names the line if any other line is not JSON.
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
    """Remove everything after the last line end of a file, if the file exists."""
    if path.exists():
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)


def _json_line(row: object) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _sync_folder(folder: Path) -> None:
    """Put a rename in the folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
