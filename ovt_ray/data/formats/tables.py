"""Rows of tables that other trainers read: files of Parquet, JSON or JSON lines.

Their images are bytes, paths relative to the file's folder, or web addresses.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ovt_ray.core.errors import DataError
from ovt_ray.core.images import is_address
from ovt_ray.data.formats.reading import PLACEHOLDER, image_in, json_lines, read_list

ROWS_AT_ONCE = 64
"""Number of rows that are in memory at the same time, with their images' bytes."""
SUFFIXES = (".parquet", ".json", ".jsonl")


class TableRow(NamedTuple):
    """An unchecked row of a file."""

    place: str
    """File and number of the row, for messages."""
    id: str
    """Id from file and number, for rows without an id of their own."""
    values: object
    folder: Path
    """Folder at which image paths start."""


def table_rows(path: Path) -> Iterator[TableRow]:
    """Yield the rows of a file, or of a folder's files in the order of their names. A folder with Parquet files yields only their rows."""
    for file in _files(path):
        for number, values in enumerate(_read(file), start=1):
            yield TableRow(f"{file} row {number}", f"{file.stem}-{number}", values, file.parent)


def image_sources(images: object, folder: Path) -> list[str | bytes]:
    """Return the images of a row, each as its bytes, its path or its web address.

    `images` is the value of a column with an image or a list of images.
    """
    if images is None:
        return []
    return [_image_source(image, folder) for image in (images if isinstance(images, list) else [images])]


def check_placeholders(text: str, images: list[str | bytes], field: str) -> None:
    """Raise DataError if a text marks a different number of images than the row has. A text may also mark none of them.

    A mark with a number is the same image wherever it occurs.
    """
    marks = PLACEHOLDER.findall(text)
    num_shown = len({mark if mark[-2].isdigit() else place for place, mark in enumerate(marks)})
    if num_shown not in (0, len(images)):
        raise DataError(f"{field}: {num_shown} image placeholders for {len(images)} images; write one for each, or none")


def parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file."""
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({str(error)[:200]}); check data.path, or copy the file again") from error


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = next((found for suffix in SUFFIXES if (found := sorted(path.glob(f"*{suffix}")))), [])
    if not files:
        raise DataError(f"{path}: no file in it ends in {', '.join(SUFFIXES)}; data.path must be a file or a folder of files")
    return files


def _read(file: Path) -> Iterator[object]:
    if file.suffix == ".parquet":
        return parquet_rows(file)
    if file.suffix == ".jsonl":
        return json_lines(file)
    if file.suffix == ".json":
        return iter(read_list(file, "data"))
    raise DataError(f"{file}: must end in {', '.join(SUFFIXES)}; check data.path")


def _image_source(image: object, folder: Path) -> str | bytes:
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, bytes) and image:
        return image
    if isinstance(image, str) and image:
        return image if is_address(image) else image_in(folder, image)
    raise DataError(f"images: must be paths, bytes or {{bytes, path}}, got a {type(image).__name__}")
