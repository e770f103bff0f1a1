"""Which problems are, by picture or question, among those that a run is measured on.

A problem is contaminated if it shows
1. a picture with the very pixels of one of theirs, whatever the question (pictures of one colour do not count), or
2. a question similar to one of theirs and a picture that looks like that one's (`ovt_ray.distillation.pictures.look_alike`), or
3. a question similar to one of theirs, with the same numbers in it, where neither has a picture, or where it has `MIN_WORDS` words and the
   same gold answer; where both have pictures there has to be a number: a template without one is asked of many pictures.
A similar question alone is no sign: data sets ask "Find x." of a thousand pictures. Nor is a similar picture: charts differ by one bar.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from ovt_ray.core.types import ImageSource, Problem
from ovt_ray.distillation.pictures import Look, look, look_alike, picture, pixel_digest, size
from ovt_ray.distillation.texts import SimilarTexts, grams, sample, words

MIN_SIMILARITY = 0.8
"""Jaccard index, of runs of three words, from which on two questions with their choices are similar."""
MIN_WORDS = 20
"""A question of fewer words says too little without its picture."""


class EvaluationSet:
    """The problems that a run is measured on, as what others are compared with. Pictures are decoded when one is first compared."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        self._pictures = _Pictures(problems)
        self._reasons: dict[str, str | None] = {}

    def overlap(self, problem: Problem) -> str | None:
        """Return which evaluation problem a problem is, and by what; None for one that is none of them."""
        if problem.id not in self._reasons:
            self._reasons[problem.id] = self._same_picture(problem) or self._same_question(problem)
        return self._reasons[problem.id]

    def _same_picture(self, problem: Problem) -> str | None:
        same = (self._pictures.same(source, problem.id) for source in problem.images)
        found = next((other for other in same if other is not None), None)
        return f"its picture is that of evaluation problem {found!r}" if found is not None else None

    def _same_question(self, problem: Problem) -> str | None:
        question = question_text(problem)
        ours: list[Look] | None = None
        for place, share in self._questions.similar(grams(question)):
            other = self._problems[place]
            about = f"its question is {share:.0%} that of evaluation problem {other.id!r}"
            if (numbers := _numbers(problem)) == _numbers(other):
                if not problem.images and not other.images:
                    return f"{about}, with the same numbers"
                tells_more = numbers or not (problem.images and other.images)
                if tells_more and gold(problem) == gold(other) and len(words(question)) >= MIN_WORDS:
                    return f"{about}, with the same numbers and answer"
            if ours is None:  # decoded for few of all problems
                ours = [look(picture(source, problem.id)) for source in problem.images]
            if any(look_alike(one, theirs) for one in ours for theirs in self._pictures.looks(place)):
                return f"{about}, and its picture looks alike"
        return None

    @cached_property
    def _questions(self) -> SimilarTexts:
        texts = [grams(question_text(problem)) for problem in self._problems]
        index = SimilarTexts(sample(texts), MIN_SIMILARITY)
        for text in texts:
            index.add(text)
        return index


class _Pictures:
    """The pictures of the evaluation problems, each decoded when it is first compared; only what is compared is kept of them."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        self._digests: dict[tuple[int, int], dict[str, str]] = {}
        self._looks: dict[int, list[Look]] = {}
        self._compared: dict[str, str | None] = {}

    def same(self, source: ImageSource, problem_id: str) -> str | None:
        """Return the id of an evaluation problem with the same pixels. Only a picture as large as one of theirs is decoded."""
        if not isinstance(source, str):
            return self._same(source, problem_id)
        if source not in self._compared:  # many problems may show one file
            self._compared[source] = self._same(source, problem_id)
        return self._compared[source]

    def looks(self, place: int) -> list[Look]:
        """Return how the pictures of one evaluation problem look."""
        if place not in self._looks:
            problem = self._problems[place]
            self._looks[place] = [look(picture(source, problem.id)) for source in problem.images]
        return self._looks[place]

    def _same(self, source: ImageSource, problem_id: str) -> str | None:
        known = self._digests_of(size(source, problem_id))
        return known.get(pixel_digest(picture(source, problem_id)) or "") if known else None

    def _digests_of(self, shape: tuple[int, int]) -> dict[str, str]:
        """Return the problem that shows each picture of one size, by the digest of its pixels."""
        if shape not in self._digests:
            shown = [(self._problems[place], number) for place, number in self._by_size.get(shape, ())]
            digests = [(pixel_digest(picture(problem.images[number], problem.id)), problem.id) for problem, number in shown]
            self._digests[shape] = {digest: id for digest, id in reversed(digests) if digest is not None}
        return self._digests[shape]

    @cached_property
    def _by_size(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Place of the problem and of the picture in it, by the size that the file states."""
        found: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for place, problem in enumerate(self._problems):
            for number, source in enumerate(problem.images):
                found[size(source, problem.id)].append((place, number))
        return dict(found)


def question_text(problem: Problem) -> str:
    """Return the question with its choices."""
    return "\n".join([problem.question, *problem.choices])


def gold(problem: Problem) -> str:
    """Return the gold answer as it is compared with another problem's."""
    return problem.answer.strip().casefold()


def _numbers(problem: Problem) -> list[str]:
    """Return the words of the question that have a digit, sorted: templates are filled with other numbers."""
    return sorted(word for word in words(question_text(problem)) if any(letter.isdigit() for letter in word))
