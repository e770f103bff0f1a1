"""Finds problems whose text the policy would read as its own control tokens, before anything starts. Teachers never receive them."""

import re
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.prompts import Prompts, model_path, shown_text
from ovt_ray.data.sources import settle
from ovt_ray.data.table import BadRow, ProblemSet
from ovt_ray.data.tasks import Tasks


def without_control_tokens(tasks: Tasks, config: RunConfig) -> Tasks:
    """Return the tasks without problems whose text holds a control token of the policy.

    Raises DataError that names these problems, unless bad rows are dropped.
    """
    if tasks.loaded is None:
        return tasks
    tokens = list(Prompts(model_path(config.model), config.model).control_tokens)
    if not tokens:  # a pattern without tokens would match everywhere
        return tasks
    train, held_out = tasks.loaded.train, tasks.loaded.held_out
    bad = [row for part in (train, held_out) for row in _bad_rows(part, tokens)]
    dropped = (*tasks.loaded.dropped, *settle(bad, config.data.bad_rows))
    return replace(tasks, loaded=replace(tasks.loaded, train=_others(train, tokens), held_out=_others(held_out, tokens), dropped=dropped))


def _bad_rows(problems: ProblemSet, tokens: Collection[str]) -> list[BadRow]:
    found = problems.select(_places(problems, tokens))
    held = [(place, next(t for t in tokens if t in shown_text(one))) for place, one in zip(found.column("place"), found, strict=True)]
    rule = "which the model reads as a control token; remove it"
    return [BadRow(message=f"{place}: its text holds {token!r}, {rule}", is_left_out=False) for place, token in held]


def _others(problems: ProblemSet, tokens: Collection[str]) -> ProblemSet:
    return problems.select(np.setdiff1d(np.arange(len(problems)), _places(problems, tokens)))


def _places(problems: ProblemSet, tokens: Collection[str]) -> np.ndarray:
    return problems.places_of("|".join(map(re.escape, tokens)))
