"""The corpus that trains the base model from random weights: perception, and reasoning over text, but no reasoning over pictures.

This is the recipe's division of labour: the base model sees and calculates, and distillation teaches it to combine both.
"""

from pathlib import Path
from random import Random

from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.world.figures import ShapeGrid, save_figure
from ovt_ray.world.problems import draw_choices, draw_figure, draw_problem, draw_question
from ovt_ray.world.questions import KINDS, named_readings
from ovt_ray.world.teacher import caption, respond

DESCRIBE = "Describe the picture."
GRID_KINDS = tuple(kind for kind in KINDS if kind.figure is ShapeGrid)
NUM_NAMES = 4
"""Number of parts in a reading, which may repeat."""
GRID_SHARE = 0.4
"""Share of readings that are always of shapes, which are harder to distinguish than bars."""
TASKS = {"describe": 0.1, "read": 0.25, "look": 0.3, "reason": 0.33, "answer": 0.02}
"""Share of each task in the corpus."""


def base_traces(num: int, seed: int, folder: Path) -> list[tuple[Problem, str]]:
    """Return `num` problems about training figures, with the responses to imitate. The same arguments give the same problems.

    The tasks are: describe a picture, read named parts of it, read the parts that a question needs, reason over readings in text, and
    answer at once.
    """
    rng = Random(f"base {seed}")
    write = {"describe": _describe, "read": _read, "look": _look, "reason": _reason, "answer": _answer}
    tasks = rng.choices(list(TASKS), list(TASKS.values()), k=num)
    return [write[task](rng, folder, f"base-{seed}-{index}") for index, task in enumerate(tasks)]


def _describe(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a picture and its caption."""
    figure = draw_figure(rng.choice(KINDS), "train", rng)
    text = caption(figure)
    return Problem(id=name, question=DESCRIBE, images=(save_figure(figure, folder),), answer=text, kind=AnswerKind.TEXT), text


def _read(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a picture with the names of some of its parts, and the readings of these parts in that order."""
    readings: dict[str, str] = {}
    while not readings:
        figure = draw_figure(rng.choice(GRID_KINDS if rng.random() < GRID_SHARE else KINDS), "train", rng)
        readings = named_readings(figure)
    names = rng.choices(list(readings), k=NUM_NAMES)
    question, text = f"Read {' '.join(names)}.", " ".join(readings[part] for part in names)
    return Problem(id=name, question=question, images=(save_figure(figure, folder),), answer=text, kind=AnswerKind.TEXT), text


def _look(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a picture with a question and the readings that it needs, without an answer."""
    kind = rng.choice(KINDS)
    figure, arguments = draw_question(kind, "train", rng)
    text = kind.solve(figure, arguments).readings
    problem = Problem(
        id=name,
        question=f"Look: {kind.template.format(*arguments)}",
        images=(save_figure(figure, folder),),
        answer=text,
        kind=AnswerKind.TEXT,
        choices=draw_choices(kind, figure, rng),
    )
    return problem, text


def _reason(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a question with the readings that it needs, both as text, and a careful chain.

    Half of the questions come without readings, so that the chain makes them up. Then the model has to calculate from its own words, not
    from the prompt. Without such questions, chains over three readings did not carry over to pictures.
    """
    kind = rng.choice(KINDS)
    figure, arguments = draw_question(kind, "train", rng)
    solution = kind.solve(figure, arguments)
    question = kind.template.format(*arguments)
    if rng.random() < 0.5:
        question = f"{question}\n{solution.readings}"
    choices = draw_choices(kind, figure, rng)
    problem = Problem(id=name, question=question, images=(), answer=solution.answer, kind=AnswerKind.TEXT, choices=choices)
    return problem, respond(solution.steps, solution.answer)


def _answer(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a picture with a question and an answer without a thought."""
    problem = draw_problem(rng.choice(KINDS), "train", rng, folder, name=name)
    return problem, respond("", problem.answer)
