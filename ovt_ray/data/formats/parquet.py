"""Problems from Parquet. The columns are the fields of a `ProblemRow`, and a null is a missing field.

An image is a path, its bytes, or the struct of bytes and path that the `datasets` library writes. Paths start at the file's folder.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ovt_ray.core.errors import DataError
from ovt_ray.data.formats import Row, Split
from ovt_ray.data.formats.tables import parquet_rows
from ovt_ray.data.rows import to_problem


def rows(path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a file, or of all `*.parquet` files of a folder in the order of their names."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: a folder without *.parquet files; data.path must be a Parquet file or a folder of them")
    for file in files:
        for number, values in enumerate(parquet_rows(file), start=1):
            given = {name: value for name, value in values.items() if value is not None}
            yield f"{file} row {number} (id {str(given.get('id'))[:60]!r})", partial(to_problem, given, file.parent)
