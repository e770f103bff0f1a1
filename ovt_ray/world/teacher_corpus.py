"""The corpora that train the tiny teachers: captions of pictures, and the procedural reasoner's chains over captions."""

from pathlib import Path
from random import Random

from ovt_ray.core.types import AnswerKind, Problem
from ovt_ray.world.corpus import DESCRIBE, GRID_KINDS
from ovt_ray.world.figures import save_figure
from ovt_ray.world.problems import draw_choices, draw_figure, draw_question
from ovt_ray.world.questions import KINDS
from ovt_ray.world.teacher import MISREAD, ProceduralReasoner, caption, misread

GRID_SHARE = 0.5
"""Share of captions that are always of shapes, which are harder to distinguish than bars."""


def caption_corpus(num: int, seed: int, folder: Path) -> list[tuple[Problem, str]]:
    """Return `num` training pictures, drawn to `folder`, with the request to describe them, and captions with occasional misreadings.

    The base model describes pictures without a mistake. After training on these captions, greedy captions are right. Captions sampled at
    temperature 1 misread as often as these.
    """
    rng = Random(f"captions {seed}")
    rows = []
    for index in range(num):
        figure = draw_figure(rng.choice(GRID_KINDS if rng.random() < GRID_SHARE else KINDS), "train", rng)
        text = caption(misread(figure, MISREAD, rng))
        image = save_figure(figure, folder)
        rows.append((Problem(id=f"caption-{seed}-{index}", question=DESCRIBE, images=(image,), answer=text, kind=AnswerKind.TEXT), text))
    return rows


def reasoning_corpus(num: int, seed: int) -> list[tuple[Problem, str, str]]:
    """Return `num` questions about training figures without their pictures, each with a caption and a chain of the procedural mixture.

    Captions have the procedural captioner's rate of mistakes. Some questions are therefore about things that their caption lacks.
    """
    rng = Random(f"reasoning {seed}")
    rows = []
    for index in range(num):
        kind = rng.choice(KINDS)
        figure, arguments = draw_question(kind, "train", rng)
        problem = Problem(
            id=f"reasoning-{seed}-{index}",
            question=kind.template.format(*arguments),
            images=(),
            answer=kind.solve(figure, arguments).answer,
            kind=kind.answer_kind,
            choices=draw_choices(kind, figure, rng),
            source=kind.name,
        )
        words = caption(misread(figure, MISREAD, rng))
        ((chain,),) = ProceduralReasoner(seed).reason([problem], [words], 1)
        rows.append((problem, words, chain))
    return rows
