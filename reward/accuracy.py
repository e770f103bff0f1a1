"""The default reward: 1 for the right final answer in the right format, else 0 (OpenVLThinker, arXiv 2503.17352)."""

from ovt_ray.errors import DataError
from ovt_ray.types import Outcome, Problem, Score
from reward.equivalence import is_equivalent
from reward.extract import extract_answer


def score_accuracy(problem: Problem, text: str) -> Score:
    """Return 1 where the text's final answer means the gold one, else 0; unscorable if the gold answer is unusable."""
    found = extract_answer(text)
    if found.answer is None:
        return Score(value=0.0, outcome=Outcome.UNPARSEABLE, extracted=None, reason=found.reason)
    try:
        is_right = is_equivalent(found.answer, problem)
    except DataError as error:
        return Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=found.answer, reason=str(error))
    if is_right:
        return Score(value=1.0, outcome=Outcome.CORRECT, extracted=found.answer)
    reason = f"{found.answer[:80]!r} is not {problem.answer!r}"
    return Score(value=0.0, outcome=Outcome.WRONG, extracted=found.answer, reason=reason)
