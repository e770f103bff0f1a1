"""Checked problems in an Arrow file that is mapped, not read. A problem is made when it is requested."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import AnswerKind, Problem

TEXTS = pa.list_(pa.string())
COLUMNS = pa.schema(
    {
        "id": pa.string(),
        "question": pa.string(),
        "images": TEXTS,
        "answer": pa.string(),
        "kind": pa.string(),
        "choices": TEXTS,
        "precision": pa.int32(),
        "unit": pa.string(),
        "source": pa.string(),
        "solution": pa.string(),
    }
)
"""The fields of a `Problem`."""
SCHEMA = pa.schema(
    [
        *COLUMNS,
        ("place", pa.string()),
        ("image_hashes", pa.list_(pa.binary(32))),
        ("image_widths", pa.list_(pa.int32())),
        ("image_heights", pa.list_(pa.int32())),
        ("image_stamps", pa.list_(pa.int64())),
        ("num_fetched", pa.int32()),
    ]
)
"""Columns of the Arrow file. `place` is the place of the problem's row. Each image has its SHA-256, its size and the state of its file.
`num_fetched` is the number of images that were at web addresses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that makes no problem."""

    message: str
    """Place, field, value and rule, for a person."""
    is_left_out: bool
    """Whether its format leaves the row out by rule, so that it needs no correction."""
    image: str = ""
    """Path or web address of the image at fault; empty if no image is."""
    image_stamp: int = 0
    """State of that file at the check; 0 for an address."""


class ProblemSet(Sequence[Problem]):
    """Some problems of a mapped file, in any order. It holds only their positions in memory."""

    def __init__(self, table: pa.Table, bad: Sequence[BadRow] = (), places: np.ndarray | None = None) -> None:
        self._table = table
        self._places = np.arange(table.num_rows) if places is None else places
        self.bad = tuple(bad)
        """Rows of the same file that make no problem."""

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Problem: ...
    @overload
    def __getitem__(self, place: slice) -> "ProblemSet": ...
    def __getitem__(self, place: int | slice) -> "Problem | ProblemSet":
        if isinstance(place, slice):
            return ProblemSet(self._table, self.bad, self._places[place])
        row = self._table.slice(int(self._places[place]), 1).select(COLUMNS.names).to_pylist()[0]
        return to_problem(row)

    def select(self, places: Iterable[int]) -> "ProblemSet":
        """Return the problems at these places of this set, in their order."""
        chosen = places if isinstance(places, np.ndarray) else np.fromiter(places, dtype=np.int64)
        return ProblemSet(self._table, self.bad, self._places[chosen])

    def column(self, name: str) -> list[Any]:
        """Return a column of `SCHEMA`, in the order of this set."""
        column = self._table[name]
        return (column if len(self) == len(column) and self._is_whole() else column.take(pa.array(self._places))).to_pylist()

    def places_of(self, pattern: str) -> np.ndarray:
        """Return the places of the problems whose question or choices match a regular expression."""
        texts = (self._table["question"], pc.binary_join(self._table["choices"], "\n"))
        in_question, in_choices = (pc.match_substring_regex(text, pattern).to_numpy() for text in texts)
        return np.flatnonzero((in_question | in_choices)[self._places])

    def joined_with(self, others: Sequence["ProblemSet"]) -> "ProblemSet":
        """Return the problems of this set and then of others. Ids of the others begin with the set's number, counted from 1: `1/17`.

        Raises DataError if this set already has such an id.
        """
        tables, places, num_rows = [self._table], [self._places], self._table.num_rows
        for number, other in enumerate(others, start=1):
            ids = pc.binary_join_element_wise(str(number), other._table["id"], "/")
            found = pc.index_in(ids, value_set=self._table["id"])
            if found.null_count < len(found):
                row = pc.index(pc.is_valid(found), True).as_py()
                first, second = self._table["place"][found[row].as_py()], other._table["place"][row]
                raise DataError(f"data.also: {second} gets the id {ids[row].as_py()!r}, which {first} has: give one of them another id")
            tables.append(other._table.set_column(0, SCHEMA.field("id"), ids))
            places.append(other._places + num_rows)
            num_rows += other._table.num_rows
        bad = [row for one in (self, *others) for row in one.bad]
        return ProblemSet(pa.concat_tables(tables), bad, np.concatenate(places))

    def _is_whole(self) -> bool:
        return bool(np.array_equal(self._places, np.arange(len(self._places))))


def to_problem(row: dict[str, Any]) -> Problem:
    """Return the problem of a row of the file, whose rules were checked before it was written."""
    return Problem(
        **row | {"kind": AnswerKind(row["kind"]), "images": tuple(row["images"]), "choices": tuple(row["choices"])},
    )


def open_table(path: Path) -> pa.Table:
    """Return the table of an Arrow file, mapped into memory, so that only requested parts are read."""
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
