"""The default reward: 1 for the right final answer in the right format, else 0 (OpenVLThinker, arXiv 2503.17352).

Two more functions score answers of other formats: `score_lenient` reads the answer from any text, and `score_answer` receives the answer.
"""

from ovt_ray.core.errors import DataError
from ovt_ray.core.types import Outcome, Problem, Score
from reward.verifier.equivalence import check_gold, is_equivalent
from reward.verifier.extract import Extraction, extract_answer
from reward.verifier.lenient import extract_lenient

_MAX_SHOWN_CHARS = 80


def score_accuracy(problem: Problem, text: str) -> Score:
    """Return 1 if the text's final answer is equivalent to the gold answer, else 0. Unscorable if the gold answer is unusable."""
    return _score(problem, extract_answer(text))


def score_lenient(problem: Problem, text: str) -> Score:
    """Return the score of a text in any format. `reward.verifier.lenient` reads the answer from it."""
    try:
        check_gold(problem)
    except DataError as error:
        return Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=None, reason=str(error))
    return _score(problem, extract_lenient(text, problem))


def score_answer(problem: Problem, answer: str) -> Score:
    """Return the score of an already extracted answer, which may be a phrase or a sentence that states the answer."""
    if not answer.strip():
        return _score(problem, Extraction(answer=None, reason="the extracted answer is empty"))
    score = _score(problem, Extraction(answer=answer))
    if score.outcome is not Outcome.WRONG:
        return score
    found = extract_lenient(answer, problem)
    return score if found.answer is None else _score(problem, found)


def _score(problem: Problem, found: Extraction) -> Score:
    """Return the score of an extraction."""
    if found.answer is None:
        return Score(value=0.0, outcome=Outcome.UNPARSEABLE, extracted=None, reason=found.reason)
    try:
        is_right = is_equivalent(found.answer, problem)
    except DataError as error:
        return Score(value=0.0, outcome=Outcome.UNSCORABLE, extracted=found.answer, reason=str(error))
    if is_right:
        return Score(value=1.0, outcome=Outcome.CORRECT, extracted=found.answer)
    reason = f"{found.answer[:_MAX_SHOWN_CHARS]!r} is not {problem.answer[:_MAX_SHOWN_CHARS]!r}"
    return Score(value=0.0, outcome=Outcome.WRONG, extracted=found.answer, reason=reason)
