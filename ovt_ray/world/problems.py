"""Problems of the embedded world: a figure drawn to a file and a question about it, with balanced answers."""

from collections.abc import Callable
from pathlib import Path
from random import Random

from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.world.figures import COLOURS, SHAPES, BarChart, Figure, Split, random_chart, random_grid, save_figure, split_of
from ovt_ray.world.questions import KINDS, Arguments, QuestionKind

TARGETS: dict[str, tuple[str, ...]] = {
    "height": ("1", "2", "3", "4", "5", "6"),
    "sum": tuple(str(value) for value in range(3, 12)),
    "difference": ("1", "2", "3", "4", "5"),
    "comparison": ("yes", "no"),
    "highest": tuple(COLOURS),
    "count colour": ("1", "2", "3"),
    "count shape": ("1", "2", "3"),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "existence": ("yes", "no"),
    "total": tuple(str(value) for value in range(7, 15)),
    "range": ("2", "3", "4", "5"),
    "count two": ("2", "3", "4"),
}
"""Answers of each kind, drawn with equal probability, so that no kind has a favourite answer to fall back on."""

HARD_SHARE = {False: 0.1, True: 0.5}
"""Share of hard kinds in the ordinary and in the hard mixture."""

EASY_KINDS = tuple(kind for kind in KINDS if not kind.is_hard)
KIND_OF = {kind.name: kind for kind in KINDS}
HARD_KINDS = tuple(kind for kind in KINDS if kind.is_hard)


def world_problems(split: Split, num: int, seed: int, folder: Path, *, hard: bool = False, kind_name: str | None = None) -> list[Problem]:
    """Return `num` problems about figures of a split and write their PNG files to `folder`. The same arguments give the same problems.

    A hash of a figure's readings decides its split, so no held-out figure is ever trained on. One problem in ten is of a hard kind, or
    one in two with `hard`. With `kind_name` all problems are of that kind.
    """
    rng = Random(f"{split} {seed} {kind_name or hard}")
    label = f"{kind_name.replace(' ', '-')}-" if kind_name else "hard-" if hard else ""
    problems = []
    for index in range(num):
        kind = KIND_OF[kind_name] if kind_name else rng.choice(HARD_KINDS if rng.random() < HARD_SHARE[hard] else EASY_KINDS)
        name = f"{split}-{label}{seed}-{index}"
        problems.append(draw_problem(kind, split, rng, folder, name=name))
    return problems


def draw_problem(kind: QuestionKind, split: Split, rng: Random, folder: Path, *, name: str) -> Problem:
    """Return a problem of a kind about a figure of a split, drawn to `folder`."""
    figure, arguments = draw_question(kind, split, rng)
    solution = kind.solve(figure, arguments)
    return Problem(
        id=name,
        question=kind.template.format(*arguments),
        images=(save_figure(figure, folder),),
        answer=solution.answer,
        kind=kind.answer_kind,
        choices=draw_choices(kind, figure, rng),
        source=kind.name,
        solution=solution.steps,
    )


def draw_question(kind: QuestionKind, split: Split, rng: Random) -> tuple[Figure, Arguments]:
    """Return a figure of a split and the arguments of a question about it. All answers of the kind are equally probable."""
    target = rng.choice(TARGETS[kind.name])
    while True:
        figure = draw_figure(kind, split, rng)
        fitting = [arguments for arguments in kind.arguments(figure) if kind.solve(figure, arguments).answer == target]
        if fitting:
            return figure, rng.choice(fitting)


def draw_figure(kind: QuestionKind, split: Split, rng: Random) -> Figure:
    """Return a random figure that suits the kind and belongs to the split."""
    draw_one: Callable[[Random], Figure] = random_chart if kind.figure is BarChart else random_grid
    while split_of(figure := draw_one(rng)) != split:
        pass
    return figure


def draw_choices(kind: QuestionKind, figure: Figure, rng: Random) -> tuple[str, ...]:
    """Return the options of a choice question, shuffled: the chart's colours or all shapes; none for other kinds."""
    if kind.answer_kind is not AnswerKind.CHOICE:
        return ()
    options = [colour for colour, _ in figure.bars] if isinstance(figure, BarChart) else list(SHAPES)
    return tuple(rng.sample(options, len(options)))
