"""What the base model is trained on from random weights: perception, and reasoning over text, but no reasoning over pictures.

That is the division of labour of the recipe: the base model sees and calculates, distillation teaches it to do one with the other.
"""

from pathlib import Path
from random import Random

from ovt_ray.types import AnswerKind, Problem
from ovt_ray.world.figures import MAX_NUMBER, save_figure
from ovt_ray.world.problems import draw_figure, draw_problem, draw_question
from ovt_ray.world.questions import KINDS
from ovt_ray.world.teacher import caption, respond

DESCRIBE = "Describe the picture."
TASKS = {"describe": 0.3, "look": 0.35, "reason": 0.25, "answer": 0.05, "calculate": 0.05}
"""Share of each task in the corpus."""


def base_traces(num: int, seed: int, folder: Path) -> list[tuple[Problem, str]]:
    """Return `num` problems with the responses to imitate, about training figures only; the same for the same arguments.

    Tasks: describe a picture; name the readings that a question takes; reason over readings given as text; answer at once; calculate.
    """
    rng = Random(f"base {seed}")
    write = {"describe": _describe, "look": _look, "reason": _reason, "answer": _answer, "calculate": _calculate}
    tasks = rng.choices(list(TASKS), list(TASKS.values()), k=num)
    return [write[task](rng, folder, f"base-{seed}-{index}") for index, task in enumerate(tasks)]


def _describe(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a picture and its caption."""
    figure = draw_figure(rng.choice(KINDS), "train", rng)
    text = caption(figure)
    return Problem(id=name, question=DESCRIBE, images=(save_figure(figure, folder),), answer=text, kind=AnswerKind.TEXT), text


def _look(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a picture with a question that is only to be looked at for, and the readings that it takes."""
    kind = rng.choice(KINDS)
    figure, arguments = draw_question(kind, "train", rng)
    text, question = kind.solve(figure, arguments).readings, f"Look: {kind.template.format(*arguments)}"
    return Problem(id=name, question=question, images=(save_figure(figure, folder),), answer=text, kind=AnswerKind.TEXT), text


def _reason(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a question with the readings that it takes, both text, and a careful chain."""
    kind = rng.choice(KINDS)
    figure, arguments = draw_question(kind, "train", rng)
    solution = kind.solve(figure, arguments)
    question = f"{kind.template.format(*arguments)}\n{solution.readings}"
    problem = Problem(id=name, question=question, images=(), answer=solution.answer, kind=AnswerKind.TEXT)
    return problem, respond(solution.steps, solution.answer)


def _answer(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a picture with a question and the bare answer."""
    problem = draw_problem(rng.choice(KINDS), "train", rng, folder, name)
    return problem, f"<answer> {problem.answer}</answer>"


def _calculate(rng: Random, folder: Path, name: str) -> tuple[Problem, str]:
    """Return a sum or a difference of two readings and its result."""
    first, second = rng.randint(1, 2 * MAX_NUMBER), rng.randint(1, MAX_NUMBER)
    if first >= second and rng.random() < 0.5:
        question, result = f"{first} - {second} =", first - second
    else:
        question, result = f"{first} + {second} =", first + second
    return Problem(id=name, question=question, images=(), answer=str(result), kind=AnswerKind.NUMBER), f"<answer> {result}</answer>"
