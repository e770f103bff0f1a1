"""The formats that problems are read from, by the name that `data.format` has.

A format is a module here with one function, `rows(path, split)`, imported when it is used: nothing heavy is imported with this one.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovt_ray.types import Problem

Split = Literal["train", "eval"]
Row = tuple[str, Callable[[], Problem]]
"""Where a row stands, for messages, and what makes a problem of it or raises DataError. Makers are called in several threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way in which problems are kept."""

    rows: Callable[[Path, Split], Iterator[Row]]
    """Yields the rows of a split without decoding an image; DataError where the data as a whole cannot be read."""
    has_eval_split: bool
    """Whether the data say which problems are held out; where not, `rows` is asked for "train" and some of those are held out."""
    path_is: str
    """What `data.path` is, for a person."""


def _in_module(name: str) -> Callable[[Path, Split], Iterator[Row]]:
    def rows(path: Path, split: Split) -> Iterator[Row]:
        return importlib.import_module(f"ovt_ray.formats.{name}").rows(path, split)

    return rows


FORMATS: dict[str, Format] = {
    "jsonl": Format(rows=_in_module("jsonl"), has_eval_split=False, path_is="a file of JSON lines, one problem each"),
    "parquet": Format(rows=_in_module("parquet"), has_eval_split=False, path_is="a Parquet file, or a folder of them"),
    "tabmwp": Format(rows=_in_module("tabmwp"), has_eval_split=True, path_is="the folder of TabMWP's repository"),
}
