"""Problems from Parquet: the columns are the fields of a `ProblemRow`, a null is a field left out.

An image is a path, its bytes, or the struct of bytes and path that the `datasets` library writes; paths start at the file's folder.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ovt_ray.errors import DataError
from ovt_ray.formats import Row, Split
from ovt_ray.problem_rows import to_problem

ROWS_AT_ONCE = 64
"""Rows in memory together, with their images' bytes."""


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a file, or of all `*.parquet` files of a folder in the order of their names."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: a folder without *.parquet files; data.path must be a Parquet file or a folder of them")
    for file in files:
        for number, values in enumerate(_read(file), start=1):
            given = {name: value for name, value in values.items() if value is not None}
            yield f"{file} row {number} (id {str(given.get('id'))[:60]!r})", partial(to_problem, given, file.parent)


def _read(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        for batch in parquet.ParquetFile(file).iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as Parquet ({error}); check data.path and data.eval_path") from error
