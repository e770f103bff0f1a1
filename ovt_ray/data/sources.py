"""Divides the problems of a data set into training problems and held-out problems."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.formats import FORMATS
from ovt_ray.core.errors import DataError
from ovt_ray.data.store import problem_set
from ovt_ray.data.table import BadRow, ProblemSet

MAX_LISTED = 20
"""Upper bound on the bad rows that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedProblems:
    """Training problems and held-out problems."""

    train: ProblemSet
    """Problems to learn from, in the order of their rows."""
    held_out: ProblemSet
    """Problems that are never learnt from."""
    dropped: tuple[str, ...]
    """Message per row that was left out, for a person."""


def load_problems(config: DataConfig, folder: Path) -> LoadedProblems:
    """Return the problems of a run as `read_problems` does. Raises DataError if there are no training or no held-out problems."""
    loaded = read_problems(config, folder)
    if not loaded.train or not loaded.held_out:
        raise DataError(
            f"{len(loaded.train)} problems to learn from and {len(loaded.held_out)} held out, {len(loaded.dropped)} rows dropped: both "
            "need at least one; lower data.num_eval, give more problems, or others to measure on with data.eval_path and data.eval_format"
        )
    return loaded


def read_problems(config: DataConfig, folder: Path) -> LoadedProblems:
    """Return the checked training and held-out problems of a data set, and keep them in `folder` for the next start.

    Held-out problems come from the data set's own split or from `eval_path`. Otherwise a hash of their images chooses them, so that the
    choice does not depend on the order of rows. No training problem has an image of a held-out problem. Raises DataError with a list of
    the bad rows, unless they are dropped. Unless they are, an image that could not be fetched is also tried again.
    """
    assert config.path is not None
    read = partial(problem_set, folder=folder, image_hosts=config.image_hosts, tries_again=config.bad_rows == "refuse")
    problems = read(config.format, config.path, "train")
    others = [read(one.format, one.path, "train") for one in config.also]
    learnt = problems.joined_with(others) if others else problems
    if FORMATS[config.format].has_eval_split or config.eval_path is not None:
        separate = read(config.eval_format or config.format, config.eval_path or config.path, "eval")
        dropped = settle([*learnt.bad, *separate.bad], config.bad_rows)
        train, held_out = _apart_from(learnt, separate), separate[: config.num_eval]
        num_lost = len(learnt) - len(train)
    else:
        dropped = settle(learnt.bad, config.bad_rows)
        train, held_out = _hold_out(learnt, len(problems), config.num_eval)
        num_lost = len(learnt) - len(train) - len(held_out)
    if num_lost:
        dropped += (f"{config.path}: {num_lost} problems are about an image of a held-out problem and are left out of training",)
    return LoadedProblems(train=train, held_out=held_out, dropped=dropped)


def settle(bad: Sequence[BadRow], policy: Literal["drop", "refuse"]) -> tuple[str, ...]:
    """Return the messages of rows to leave out. Where bad rows are refused, raise DataError with the first of them."""
    to_correct = [row.message for row in bad if not row.is_left_out]
    if to_correct and policy == "refuse":
        more = [f"... and {len(to_correct) - MAX_LISTED} more"] if len(to_correct) > MAX_LISTED else []
        count = f"{len(to_correct)} row{'s' if len(to_correct) > 1 else ''} cannot be used"
        advice = "correct them, or leave them out with data.bad_rows=drop"
        raise DataError("\n".join([f"{count}; {advice}", *to_correct[:MAX_LISTED], *more]))
    return tuple(row.message for row in bad)


def _hold_out(problems: ProblemSet, num_candidates: int, num_held_out: int) -> tuple[ProblemSet, ProblemSet]:
    """Return (train, held out), in the order of the rows. Only the first `num_candidates` problems can be held out.

    A problem that shares an image with a held-out problem is in neither.
    """
    ids = problems.column("id")
    hashes = [found or [hashlib.sha256(id.encode()).digest()] for id, found in zip(ids, problems.column("image_hashes"), strict=True)]
    chosen = set(sorted(range(num_candidates), key=lambda place: (hashes[place], ids[place]))[:num_held_out])
    held_hashes = {digest for place in chosen for digest in hashes[place]}
    train = [place for place in range(len(ids)) if held_hashes.isdisjoint(hashes[place])]
    return problems.select(train), problems.select(sorted(chosen))


def _apart_from(learnt: ProblemSet, separate: ProblemSet) -> ProblemSet:
    """Return the problems about no image of a separate set. All of that set counts, because a later run may measure more of it.

    Questions about text are compared by their words, because two data sets may give their first rows the same id.
    """
    held_hashes = {digest for hashes in _subjects(separate) for digest in hashes}
    return learnt.select(place for place, hashes in enumerate(_subjects(learnt)) if held_hashes.isdisjoint(hashes))


def _subjects(problems: ProblemSet) -> Iterator[list[bytes]]:
    """Yield hashes of each problem's subject: of its images, or without images of its question and choices."""
    for hashes, question, choices in zip(*map(problems.column, ("image_hashes", "question", "choices")), strict=True):
        yield hashes or [hashlib.sha256("\0".join([question, *choices]).encode()).digest()]
