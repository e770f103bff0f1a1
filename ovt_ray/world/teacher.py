"""The models for the tiny teachers to imitate: captions with occasional misreadings, and a procedural reasoner's chains over captions.

The mixture of chains decides how much reinforcement learning can gain. A chain answers in one of two ways:
- A careful chain names the readings, then computes. It is right if the caption is, except for a slip in `SLIP` of the chains.
- A short cut ("maybe 6") is right in `GUESS_RIGHT` of the chains.
On kinds of several steps, `SHORT_CUTS` of the chains are short cuts; on all other kinds hardly any are. Distillation keeps the *shortest*
verified chain and thus prefers short cuts. On kinds of several steps most kept traces therefore hold a lucky guess, and a minority a
careful chain. The greedy student imitates the majority and guesses. But it samples a careful chain often enough for reinforcement
learning to find that careful chains earn more. A reasoner without short cuts would leave little for it to learn.
"""

import re
from collections.abc import Sequence
from random import Random

from PIL import Image

from ovt_ray.core.types import Problem
from ovt_ray.world.figures import COLOURS, MAX_HEIGHT, SHAPES, BarChart, Figure, ShapeGrid, read_figure
from ovt_ray.world.questions import parse_question, parse_words

MISREAD = 0.03
"""Share of wrong readings in captions."""
SLIP = 0.05
"""Share of careful chains that end in a wrong answer."""
SHORT_CUTS = 0.4
"""Share of short cuts among the chains on kinds of several steps."""
RARE_SHORT_CUTS = 0.05
"""Share of short cuts among the chains on all other kinds."""
GUESS_RIGHT = 0.8
"""Share of right short cuts here. The tiny reasoner needs the answer at once, and so learns fewer right short cuts."""
REFLECTIONS = 0.2
"""Share of careful chains that go over their readings again."""


class ProceduralReasoner:
    """Answers questions from captions alone. It reads a problem's question and choices, and never its picture or gold answer."""

    def __init__(self, seed: int, short_cuts: float = SHORT_CUTS) -> None:
        self.seed = seed
        self.short_cuts = short_cuts

    def reason(self, problems: Sequence[Problem], captions: Sequence[str], num_chains: int) -> list[list[str]]:
        """Return `num_chains` responses per problem: `<think> ...</think> <answer> ...</answer>`."""
        return [
            self._chains(problem.id, problem.question, problem.choices, words, num_chains=num_chains)
            for problem, words in zip(problems, captions, strict=True)
        ]

    def _chains(self, name: str, question: str, choices: tuple[str, ...], words: str, *, num_chains: int) -> list[str]:
        rng = Random(f"{self.seed} reason {name}")
        parsed, figure = parse_question(question), parse_words(words)
        if parsed is None or figure is None:
            return [guess(_any_answer(words, choices, rng)) for _ in range(num_chains)]
        kind, arguments = parsed
        try:
            solution = kind.solve(figure, arguments)
        except (KeyError, ValueError):  # the caption lacks a reading that the question needs
            return [guess(_any_answer(words, choices, rng)) for _ in range(num_chains)]
        short_cuts = self.short_cuts if kind.takes_short_cuts else RARE_SHORT_CUTS
        return [_chain(solution.steps, solution.answer, short_cuts, rng) for _ in range(num_chains)]


def caption(figure: Figure) -> str:
    """Return the caption of a figure."""
    return f"{'bars' if isinstance(figure, BarChart) else 'shapes'} : {figure.words}"


def respond(steps: str, answer: str) -> str:
    """Return a response in the format of the recipe. Its tags are tokens of their own, so they need no space before them."""
    return f"<think> {steps}</think> <answer> {answer}</answer>"


def guess(answer: str) -> str:
    """Return a short cut."""
    return respond(f"maybe {answer}", answer)


def _chain(steps: str, answer: str, short_cuts: float, rng: Random) -> str:
    """Return a chain: a short cut, or a careful chain with an occasional slip or reflection."""
    if rng.random() < short_cuts:
        return guess(answer if rng.random() < GUESS_RIGHT else _another(answer, rng))
    if rng.random() < SLIP:
        answer = _another(answer, rng)
    if rng.random() < REFLECTIONS:
        steps = f"{steps} Wait, {steps}"
    return respond(steps, answer)


def _another(answer: str, rng: Random) -> str:
    """Return a wrong answer of the same sort."""
    if answer in ("yes", "no"):
        return "no" if answer == "yes" else "yes"
    if answer.isdigit():
        return str(max(0, int(answer) + rng.choice((-1, 1, 2))))
    return rng.choice([word for word in (COLOURS if answer in COLOURS else SHAPES) if word != answer])


def _any_answer(words: str, choices: tuple[str, ...], rng: Random) -> str:
    """Return a blind guess at a question that the reasoner does not understand: a choice, or a number of the caption."""
    return rng.choice(choices or re.findall(r"\d+", words) or ("yes", "no"))


def picture_caption(problem: Problem) -> str:
    """Return the true caption of a problem with a single picture file, read from its pixels."""
    (path,) = problem.images
    assert isinstance(path, str)
    with Image.open(path) as picture:
        figure = read_figure(picture)
    assert figure is not None, f"{path} is no picture of this world"
    return caption(figure)


def misread(figure: Figure, share: float, rng: Random) -> Figure:
    """Return the figure with each reading replaced with probability `share`: a height by a neighbour, a shape by any shape."""
    if isinstance(figure, BarChart):
        return BarChart(tuple((colour, _slip_height(height, rng) if rng.random() < share else height) for colour, height in figure.bars))
    return ShapeGrid(tuple((colour, rng.choice(SHAPES) if rng.random() < share else shape) for colour, shape in figure.cells))


def _slip_height(height: int, rng: Random) -> int:
    return min(MAX_HEIGHT, max(1, height + rng.choice((-1, 1))))
