"""How answers of other people's models are scored, from a file."""

from ovt_ray.errors import DataError
from ovt_ray.types import Outcome, Problem, Score
from reward.accuracy import score_accuracy
from reward.equivalence import is_equivalent


def score_response(problem: Problem, text: str) -> Score:
    """Return the score of a whole response."""
    return score_accuracy(problem, text)


def score_extraction(problem: Problem, answer: str) -> Score:
    """Return the score of an answer that is extracted already."""
    try:
        is_right = is_equivalent(answer.strip(), problem)
    except DataError as error:
        return Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=answer, reason=str(error))
    if is_right:
        return Score(value=1.0, outcome=Outcome.CORRECT, extracted=answer)
    return Score(value=0.0, outcome=Outcome.WRONG, extracted=answer, reason=f"{answer[:80]!r} is not {problem.answer!r}")
