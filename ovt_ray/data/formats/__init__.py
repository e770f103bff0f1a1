"""Reads problems in the formats of `ovt_ray.core.config.formats`.

A format is a module of this folder with the format's name and a function `rows(path, split)`. It is imported at its first use.
"""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from ovt_ray.core.types import Problem

Split = Literal["train", "eval"]
Row = tuple[str, Callable[[], Problem]]
"""Place of a row, for messages, and the function that makes its problem or raises DataError. Several threads call these functions.
The problem's images may still be at web addresses."""


def format_rows(name: str, path: Path, split: Split) -> Iterator[Row]:
    """Yield the rows of a split without decoding an image. Raises DataError if the data as a whole cannot be read.

    A format without an evaluation split receives only "train".
    """
    return importlib.import_module(f"ovt_ray.data.formats.{name}").rows(path, split)


def files_read(name: str, path: Path) -> list[Path]:
    """Return the files and folders that a format reads for a `data.path`. If any of them changes, stored rows are read again."""
    if name == "hub":
        return [Path(importlib.import_module("ovt_ray.data.formats.hub").parsed(str(path)).name)]
    if name == "llama_factory":
        return [path, path.parent / "dataset_info.json"]
    return [path]
