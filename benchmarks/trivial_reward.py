"""Rewards that cost nothing, for benchmarks of everything else."""

import zlib

from ovt_ray.core.types import Outcome, Problem, Score


def score(problem: Problem, text: str) -> Score:
    """Return 1 for every answer."""
    return Score(value=1.0, outcome=Outcome.CORRECT, extracted=None)


def score_parity(problem: Problem, text: str) -> Score:
    """Return 1 for an answer of an even number of characters, else 0: hardly a group of answers has zero variance."""
    is_even = len(text) % 2 == 0
    return Score(value=float(is_even), outcome=Outcome.CORRECT if is_even else Outcome.WRONG, extracted=None)


def score_parity_of_half(problem: Problem, text: str) -> Score:
    """Return the same for one half of the problems, and 1 for every answer to the others, whose groups have zero variance."""
    return score(problem, text) if zlib.crc32(problem.id.encode()) % 2 else score_parity(problem, text)
