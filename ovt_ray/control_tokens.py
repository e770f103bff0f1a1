"""Problems whose text a model of the run would read as its own control tokens, found before anything starts."""

import re
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from ovt_ray.config import RunConfig
from ovt_ray.problem_set import BadRow, ProblemSet
from ovt_ray.problems import settle
from ovt_ray.prompts import Prompts, model_path, shown_text
from ovt_ray.tasks import Tasks
from ovt_ray.teachers import reasoner_model


def without_control_tokens(tasks: Tasks, config: RunConfig) -> Tasks:
    """Return the tasks without problems whose text holds a control token of the policy, or of the reasoner where the run has one.

    Raises DataError naming them, unless bad rows are dropped.
    """
    if tasks.loaded is None:
        return tasks
    models = [(model_path(config.model), config.model)]
    if config.has_teachers:
        models.append((reasoner_model(config.reasoner).path, reasoner_model(config.reasoner)))
    tokens = sorted({token for path, model in models for token in Prompts(path, model).control_tokens})
    train, held_out = tasks.loaded.train, tasks.loaded.held_out
    bad = [row for part in (train, held_out) for row in _bad_rows(part, tokens)]
    dropped = (*tasks.loaded.dropped, *settle(bad, config.data.bad_rows))
    return replace(tasks, loaded=replace(tasks.loaded, train=_others(train, tokens), held_out=_others(held_out, tokens), dropped=dropped))


def _bad_rows(problems: ProblemSet, tokens: Collection[str]) -> list[BadRow]:
    found = problems.select(_places(problems, tokens))
    held = [(place, next(t for t in tokens if t in shown_text(one))) for place, one in zip(found.column("place"), found, strict=True)]
    rule = "which a model of the run reads as a control token; remove it"
    return [BadRow(message=f"{place}: its text holds {token!r}, {rule}", is_left_out=False) for place, token in held]


def _others(problems: ProblemSet, tokens: Collection[str]) -> ProblemSet:
    return problems.select(np.setdiff1d(np.arange(len(problems)), _places(problems, tokens)))


def _places(problems: ProblemSet, tokens: Collection[str]) -> np.ndarray:
    return problems.places_of("|".join(map(re.escape, tokens)))
