"""Selects the traces of a problem among the chains that passed every filter.

`second_longest` is the rule of the paper's published script (generation/generate_reasoning_thinker.py). It takes a single correct chain.
Of several chains it removes the longest, then takes the longest of the rest. `shortest` is the rule of the paper's text.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from ovt_ray.core.config.traces import SelectionRule
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import Problem
from ovt_ray.data.order import shuffled
from ovt_ray.distillation.contamination import gold, question_text
from ovt_ray.distillation.filters import Candidate
from ovt_ray.distillation.pictures import content_digest
from ovt_ray.distillation.texts import Grams, SimilarTexts, grams, sample, similarity

Likeness = tuple[str, tuple[str, ...]]
"""Gold answer and digests of the pictures. Traces of problems that differ in them are no duplicates."""


def ranked(rule: SelectionRule, candidates: Sequence[Candidate], seed: int) -> list[Candidate]:
    """Return the candidates of a problem, the first choice first, without candidates that the rule never takes.

    Chains of equal length keep their order. `random` depends only on seed and problem id.
    """
    if rule == "random":
        return shuffled(candidates, stable_seed(seed, "select", candidates[0].problem.id)) if candidates else []
    if rule == "all":
        return list(candidates)
    if rule == "shortest":
        return sorted(candidates, key=lambda candidate: candidate.num_words)
    longest_first = sorted(candidates, key=lambda candidate: -candidate.num_words)
    return longest_first[1:] if rule == "second_longest" and len(longest_first) > 1 else longest_first


class Quota:
    """Bounds the number of traces of each source."""

    def __init__(self, per_source: int | None) -> None:
        self._per_source = per_source
        self._num_taken: Counter[str] = Counter()

    def refusal(self, problem: Problem) -> str | None:
        """Return the reason why no further trace of a problem's source is taken; None if a trace may be taken."""
        is_full = self._per_source is not None and self._num_taken[problem.source] >= self._per_source
        return f"source {problem.source!r} has its {self._per_source} traces" if is_full else None

    def take(self, problem: Problem) -> None:
        """Count a trace that was taken."""
        self._num_taken[problem.source] += 1


class Duplicates:
    """Finds chains that repeat a chosen chain.

    Both are of the same problem, or of problems with the same pictures, the same answer and similar questions.
    """

    def __init__(self, candidates: Sequence[Candidate], bound: float | None) -> None:
        """`candidates` are all chains of later calls. With a bound of None no chain is a duplicate."""
        self._bound = bound
        self._likeness: dict[str, Likeness] = {}
        self._candidates: defaultdict[Likeness, list[Candidate]] = defaultdict(list)
        self._taken: defaultdict[Likeness, list[Candidate]] = defaultdict(list)
        self._indices: dict[Likeness, SimilarTexts] = {}
        for candidate in candidates if bound is not None else ():
            self._candidates[self._likeness_of(candidate.problem)].append(candidate)

    def original(self, candidate: Candidate) -> str | None:
        """Return the chosen chain that a candidate repeats, with their similarity; None if it repeats none."""
        if self._bound is None or not self._taken[likeness := self._likeness_of(candidate.problem)]:
            return None
        ours = grams(candidate.response)
        for place, _ in self._index(likeness, self._bound).similar(_question_and_response(candidate)):
            other = self._taken[likeness][place]
            share = similarity(ours, grams(other.response))
            if share >= self._bound and _ask_alike(candidate.problem, other.problem, self._bound):
                return f"{share:.0%} that of chain {other.index} of problem {other.problem.id!r}"
        return None

    def take(self, candidate: Candidate) -> None:
        """Remember a chain that was chosen."""
        if self._bound is not None:
            likeness = self._likeness_of(candidate.problem)
            self._taken[likeness].append(candidate)
            if likeness in self._indices:
                self._indices[likeness].add(_question_and_response(candidate))

    def _index(self, likeness: Likeness, bound: float) -> SimilarTexts:
        """Return the index of the chosen chains. It is built at the second chain, which most problems never have."""
        if likeness not in self._indices:
            known = [_question_and_response(candidate) for candidate in sample(self._candidates[likeness])]
            self._indices[likeness] = SimilarTexts(known, bound)
            for taken in self._taken[likeness]:
                self._indices[likeness].add(_question_and_response(taken))
        return self._indices[likeness]

    def _likeness_of(self, problem: Problem) -> Likeness:
        if problem.id not in self._likeness:
            self._likeness[problem.id] = (gold(problem), tuple(sorted(map(content_digest, problem.images))))
        return self._likeness[problem.id]


def _question_and_response(candidate: Candidate) -> Grams:
    """Return the runs of question and response together.

    If questions and responses are both similar to within a bound, so is their union. The search by the union therefore misses none.
    """
    question = ~grams(question_text(candidate.problem))  # inverted, so that they differ from the runs of a response
    return np.unique(np.concatenate([question, grams(candidate.response)]))


def _ask_alike(first: Problem, second: Problem, bound: float) -> bool:
    return first.id == second.id or similarity(grams(question_text(first)), grams(question_text(second))) >= bound
