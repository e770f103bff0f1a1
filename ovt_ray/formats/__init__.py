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
"""Where a row stands, for messages, and what makes a problem of it or raises DataError. Makers are called in several threads.
A problem's images may still be at web addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One way in which problems are kept."""

    rows: Callable[[Path, Split], Iterator[Row]]
    """Yields the rows of a split without decoding an image; DataError where the data as a whole cannot be read."""
    has_eval_split: bool
    """Whether the data say which problems are held out; where not, `rows` is asked for "train" and some of those are held out."""
    path_is: str
    """What `data.path` is, for a person."""
    read_from: Callable[[Path], list[Path]]
    """Returns the files and folders that are read for a `data.path`: when one changes, rows that were kept are read anew."""


def _in_module(name: str) -> Callable[[Path, Split], Iterator[Row]]:
    def rows(path: Path, split: Split) -> Iterator[Row]:
        return importlib.import_module(f"ovt_ray.formats.{name}").rows(path, split)

    return rows


def _format(module: str, path_is: str, *, has_eval_split: bool, read_from: Callable[[Path], list[Path]] = lambda path: [path]) -> Format:
    return Format(rows=_in_module(module), has_eval_split=has_eval_split, path_is=path_is, read_from=read_from)


def _named_by(path: Path) -> list[Path]:
    return [Path(importlib.import_module("ovt_ray.formats.hub").parsed(str(path)).name)]


def _with_description(path: Path) -> list[Path]:
    return [path, path.parent / "dataset_info.json"]


TABLE = "a file of Parquet, JSON or JSON lines"
FORMATS: dict[str, Format] = {
    "jsonl": _format("jsonl", "a file of JSON lines, one problem each", has_eval_split=False),
    "parquet": _format("parquet", "a Parquet file, or a folder of them", has_eval_split=False),
    "easyr1": _format("easyr1", f"{TABLE}, or a folder of them", has_eval_split=False),
    "verl": _format("verl", f"{TABLE}, or a folder of them", has_eval_split=False),
    "llama_factory": _format("llama_factory", TABLE, has_eval_split=False, read_from=_with_description),
    "hub": _format("hub", "a hub name, or a folder that `datasets` opens: NAME or NAME:SPLIT", has_eval_split=False, read_from=_named_by),
    "ai2d": _format("ai2d", "the folder ai2d", has_eval_split=True),
    "clevr": _format("clevr", "the folder CLEVR_v1.0", has_eval_split=True),
    "figureqa": _format("figureqa", "the folder of its parts", has_eval_split=True),
    "geometry3k": _format("geometry3k", "the folder of train, val and test", has_eval_split=True),
    "geos": _format("geos", "a folder of problems' folders", has_eval_split=False),
    "iconqa": _format("iconqa", "the folder iconqa_data", has_eval_split=True),
    "mapqa": _format("mapqa", "the folder of one subset", has_eval_split=True),
    "scienceqa": _format("scienceqa", "the folder of ScienceQA's repository", has_eval_split=True),
    "super_clevr": _format("super_clevr", "the folder of its questions and images", has_eval_split=True),
    "tabmwp": _format("tabmwp", "the folder of TabMWP's repository", has_eval_split=True),
    "vizwiz": _format("vizwiz", "the folder of Annotations, train and val", has_eval_split=True),
    "hallusionbench": _format("hallusionbench", "the folder of HallusionBench's repository", has_eval_split=True),
    "mathvision": _format("mathvision", "the folder of MathVision's repository", has_eval_split=True),
    "mathvista": _format("mathvista", "the folder of MathVista's repository", has_eval_split=True),
    "mmmu": _format("mmmu", f"{TABLE}, or a folder of them", has_eval_split=True),
}
