"""What the base model is trained on from random weights: perception, and reasoning over text, but no reasoning over pictures.

That is the division of labour of the recipe: the base model sees and calculates, distillation teaches it to do one with the other.
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
"""Parts asked for in one reading; some more than once."""
GRID_SHARE = 0.4
"""Share of readings that are always of shapes, which are harder to tell apart than bars."""
TASKS = {"describe": 0.1, "read": 0.25, "look": 0.3, "reason": 0.33, "answer": 0.02}
"""Share of each task in the corpus."""


def base_traces(num: int, seed: int, folder: Path) -> list[tuple[Problem, str]]:
    """Return `num` problems with the responses to imitate, about training figures only; the same for the same arguments.

    Tasks: describe a picture; read named parts of one; read what a question takes; reason over readings given as text; answer at once.
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
    """Return a picture with a question and the readings that it takes, without an answer."""
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
    """Return a question with the readings that it takes, both text, and a careful chain.

    Every second question comes without readings, so that the chain makes them up: the model has to calculate from what it wrote, not
    from what it was told. Without these, chains over three readings did not carry over to pictures.
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
    problem = draw_problem(rng.choice(KINDS), "train", rng, folder, name)
    return problem, respond("", problem.answer)
