"""A reward that costs nothing, for benchmarks of everything else."""

from ovt_ray.types import Outcome, Problem, Score


def score(problem: Problem, text: str) -> Score:
    """Return 1 for every answer."""
    return Score(value=1.0, outcome=Outcome.CORRECT, extracted=None)


def score_parity(problem: Problem, text: str) -> Score:
    """Return 1 for an answer of an even number of characters, else 0: hardly a group of answers is flat."""
    is_even = len(text) % 2 == 0
    return Score(value=float(is_even), outcome=Outcome.CORRECT if is_even else Outcome.WRONG, extracted=None)
