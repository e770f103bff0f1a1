"""What the tiny teachers are trained to imitate: captions of figures, misread now and then, and a procedural reasoner's chains over them.

The mixture decides what reinforcement learning can gain, so here it is. Every chain of the reasoner is one of two ways of answering:
careful (name the readings, then compute: right whenever the caption is, up to a slip in `SLIP` of the chains) or a short cut ("maybe 6":
right in `GUESS_RIGHT` of the chains). On kinds of several steps, `SHORT_CUTS` of the chains are short cuts, on the others hardly any.
Distillation keeps the *shortest* verified chain, which prefers short cuts, so on kinds of several steps most kept traces hold a lucky guess
and a minority a careful chain. The student imitates the majority, greedily, and guesses; it samples a careful chain often enough
for reinforcement learning to find that careful chains earn more. A reasoner without short cuts would leave little to be learned by it.
"""

import re
from collections.abc import Sequence
from random import Random

from PIL import Image

from ovt_ray.core.types import Problem
from ovt_ray.world.figures import COLOURS, MAX_HEIGHT, SHAPES, BarChart, Figure, ShapeGrid, read_figure
from ovt_ray.world.questions import parse_question, parse_words

MISREAD = 0.03
"""Share of readings that captions get wrong."""
SLIP = 0.05
"""Share of careful chains that end in a wrong answer."""
SHORT_CUTS = 0.4
"""Share of short cuts among the chains on kinds of several steps."""
RARE_SHORT_CUTS = 0.05
"""The same on all other kinds."""
GUESS_RIGHT = 0.8
"""Share of short cuts that are right here; the tiny reasoner, which has to have the answer at once, learns fewer of them."""
REFLECTIONS = 0.2
"""Share of careful chains that go over their readings once more."""


class ProceduralReasoner:
    """Answers questions from captions alone; of a problem it reads the question and the choices, never picture or gold answer."""

    def __init__(self, seed: int, short_cuts: float = SHORT_CUTS) -> None:
        self.seed = seed
        self.short_cuts = short_cuts

    def reason(self, problems: Sequence[Problem], captions: Sequence[str], num_chains: int) -> list[list[str]]:
        """Return `num_chains` responses per problem: `<think> ...</think> <answer> ...</answer>`."""
        return [
            self._chains(problem.id, problem.question, problem.choices, words, num_chains)
            for problem, words in zip(problems, captions, strict=True)
        ]

    def _chains(self, name: str, question: str, choices: tuple[str, ...], words: str, num_chains: int) -> list[str]:
        rng = Random(f"{self.seed} reason {name}")
        parsed, figure = parse_question(question), parse_words(words)
        if parsed is None or figure is None:
            return [guess(_any_answer(words, choices, rng)) for _ in range(num_chains)]
        kind, arguments = parsed
        try:
            solution = kind.solve(figure, arguments)
        except (KeyError, ValueError):  # the caption does not show what is asked for
            return [guess(_any_answer(words, choices, rng)) for _ in range(num_chains)]
        short_cuts = self.short_cuts if kind.takes_short_cuts else RARE_SHORT_CUTS
        return [_chain(solution.steps, solution.answer, short_cuts, rng) for _ in range(num_chains)]


def caption(figure: Figure) -> str:
    """Return what a figure shows, as a captioner says it."""
    return f"{'bars' if isinstance(figure, BarChart) else 'shapes'} : {figure.words}"


def respond(steps: str, answer: str) -> str:
    """Return a response in the format of the recipe. Its tags are tokens of their own, so no space is needed before them."""
    return f"<think> {steps}</think> <answer> {answer}</answer>"


def guess(answer: str) -> str:
    """Return a short cut."""
    return respond(f"maybe {answer}", answer)


def _chain(steps: str, answer: str, short_cuts: float, rng: Random) -> str:
    """Return one chain: a short cut, or a careful one with a slip or a reflection now and then."""
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
    """Return a blind guess at a question that the reasoner does not understand: a choice, or a number that was read."""
    return rng.choice(choices or re.findall(r"\d+", words) or ("yes", "no"))


def picture_caption(problem: Problem) -> str:
    """Return the true caption of the one picture of a problem, which is in a file, read from its pixels."""
    (path,) = problem.images
    assert isinstance(path, str)
    with Image.open(path) as picture:
        figure = read_figure(picture)
    assert figure is not None, f"{path} is no picture of this world"
    return caption(figure)


def misread(figure: Figure, share: float, rng: Random) -> Figure:
    """Return the figure with each reading replaced, with probability `share`, by a neighbouring or another one."""
    if isinstance(figure, BarChart):
        return BarChart(tuple((colour, _slip_height(height, rng) if rng.random() < share else height) for colour, height in figure.bars))
    return ShapeGrid(tuple((colour, rng.choice(SHAPES) if rng.random() < share else shape) for colour, shape in figure.cells))


def _slip_height(height: int, rng: Random) -> int:
    return min(MAX_HEIGHT, max(1, height + rng.choice((-1, 1))))
