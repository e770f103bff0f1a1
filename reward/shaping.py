"""Rewards to add to accuracy: format, length, overlong and repetition penalties, and the paper's half reward. Pure functions.

A penalty is at most 0, so its weight in `reward.parts` is positive. A length is the number of sampled tokens, including the end of turn.
For a text that no rollout worker wrote it is the number of words.
"""

from dataclasses import dataclass, replace

from ovt_ray.core.types import Outcome, Problem, Score
from reward.accuracy import score_accuracy
from reward.verifier.extract import ANSWER, END_THINK, extract_answer


def score_format(problem: Problem, text: str) -> Score:
    """Return 1 if the text keeps the format from which training reads answers, else 0 with the rule that it breaks.

    DeepSeek-R1 (arXiv 2501.12948, section 2.2.2) adds such a reward to accuracy.
    """
    found = extract_answer(text)
    if found.answer is None:
        return Score(value=0.0, outcome=Outcome.UNPARSEABLE, extracted=None, reason=found.reason)
    return Score(value=1.0, outcome=Outcome.CORRECT, extracted=found.answer)


def score_explained(problem: Problem, text: str) -> Score:
    """Return accuracy's score, halved if no text stands between `</think>` and `<answer>`.

    The published script of OpenVLThinker (arXiv 2503.17352) does the same: it wants an explanation after the thinking. Use this reward
    in place of `reward.accuracy:score_accuracy`.
    """
    score = score_accuracy(problem, text)
    explanation, answered, _ = text.partition(END_THINK)[2].partition(ANSWER)
    if score.outcome is not Outcome.CORRECT or not answered or explanation.strip():
        return score
    return replace(score, value=score.value / 2, reason=f"halved: nothing between {END_THINK} and {ANSWER}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthPenalty:
    """0 up to `free_tokens`, then a linear fall to -1 at `max_tokens`, and -1 beyond.

    The value is -min(1, max(0, length - free) / (max - free)). L1 (arXiv 2503.04697, eq. 1) charges alpha |target - length|. Here
    short answers cost nothing, and the bound keeps a single long answer from dominating its group.
    """

    max_tokens: int
    free_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.free_tokens < self.max_tokens:
            raise ValueError(f"needs 0 <= free_tokens < max_tokens, got {self.free_tokens} and {self.max_tokens}")

    def __call__(self, problem: Problem, text: str, num_tokens: int) -> float:
        """Return the penalty of a length."""
        return -min(1.0, max(0, num_tokens - self.free_tokens) / (self.max_tokens - self.free_tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongPenalty:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), which charges only the last `buffer_tokens` before the limit.

    0 up to max - buffer; (max - buffer - length) / buffer from there to max; -1 beyond.
    """

    max_tokens: int
    buffer_tokens: int

    def __post_init__(self) -> None:
        if not 0 < self.buffer_tokens <= self.max_tokens:
            raise ValueError(f"needs 0 < buffer_tokens <= max_tokens, got {self.buffer_tokens} and {self.max_tokens}")

    def __call__(self, problem: Problem, text: str, num_tokens: int) -> float:
        """Return the punishment of a length."""
        if num_tokens > self.max_tokens:
            return -1.0
        return min(0.0, (self.max_tokens - self.buffer_tokens - num_tokens) / self.buffer_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionPenalty:
    """Minus the share of word n-grams that repeat an earlier n-gram of the text: 0 without repetition, near -1 in a loop.

    The value is -(1 - distinct / all). Yeo et al. (arXiv 2502.03373, appendix) penalise repeated n-grams token by token. A score per
    completion needs their share over the whole answer instead.
    """

    num_words: int = 4
    """n, the number of words in an n-gram."""

    def __post_init__(self) -> None:
        if self.num_words < 1:
            raise ValueError(f"needs num_words >= 1, got {self.num_words}")

    def __call__(self, problem: Problem, text: str) -> float:
        """Return the penalty of a text; 0 if the text has fewer than n words."""
        words = text.lower().split()
        grams = list(zip(*(words[start:] for start in range(self.num_words)), strict=False))
        return len(set(grams)) / len(grams) - 1 if grams else 0.0
