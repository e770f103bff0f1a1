"""Finds problems that equal, by picture or question, a problem that the run is measured on.

A problem is contaminated by an evaluation problem in three cases:
1. A picture of it has exactly the pixels of a picture there, whatever the question. Pictures of a single colour do not count.
2. Its question is similar to the question there, and a picture looks like a picture there (`ovt_ray.distillation.pictures.look_alike`).
3. Its question is similar to the question there and has the same numbers. In addition, either neither problem has a picture, or the
   question has `MIN_WORDS` words and the same gold answer. If both have pictures, the question must have a number, because a template
   without a number occurs with many pictures.
A similar question alone is no sign: data sets ask "Find x." about a thousand pictures. A similar picture alone is no sign either: charts
may differ by a single bar.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from ovt_ray.core.types import ImageSource, Problem
from ovt_ray.distillation.pictures import Look, look, look_alike, picture, pixel_digest, size
from ovt_ray.distillation.texts import SimilarTexts, grams, sample, words

MIN_SIMILARITY = 0.8
"""Jaccard index of three-word runs from which two questions with their choices are similar."""
MIN_WORDS = 20
"""Fewest words of a question that identify it without its picture."""


class EvaluationSet:
    """The problems that a run is measured on, for comparison with others. Pictures are decoded at their first comparison."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        self._pictures = _Pictures(problems)
        self._reasons: dict[str, str | None] = {}

    def overlap(self, problem: Problem) -> str | None:
        """Return the evaluation problem that a problem equals, and the evidence; None if it equals none."""
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
            if ours is None:  # late, because few problems need their pictures decoded
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
    """The pictures of the evaluation problems, decoded at their first comparison. Only their digests and thumbnails are kept."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self._problems = problems
        self._digests: dict[tuple[int, int], dict[str, str]] = {}
        self._looks: dict[int, list[Look]] = {}
        self._compared: dict[str, str | None] = {}

    def same(self, source: ImageSource, problem_id: str) -> str | None:
        """Return the id of an evaluation problem with the same pixels. Decodes the picture only if an evaluation picture has its size."""
        if not isinstance(source, str):
            return self._same(source, problem_id)
        if source not in self._compared:  # many problems may show the same file
            self._compared[source] = self._same(source, problem_id)
        return self._compared[source]

    def looks(self, place: int) -> list[Look]:
        """Return the thumbnails of an evaluation problem's pictures."""
        if place not in self._looks:
            problem = self._problems[place]
            self._looks[place] = [look(picture(source, problem.id)) for source in problem.images]
        return self._looks[place]

    def _same(self, source: ImageSource, problem_id: str) -> str | None:
        known = self._digests_of(size(source, problem_id))
        return known.get(pixel_digest(picture(source, problem_id)) or "") if known else None

    def _digests_of(self, shape: tuple[int, int]) -> dict[str, str]:
        """Return the id of the problem that shows each picture of a size, by the digest of its pixels."""
        if shape not in self._digests:
            shown = [(self._problems[place], number) for place, number in self._by_size.get(shape, ())]
            digests = [(pixel_digest(picture(problem.images[number], problem.id)), problem.id) for problem, number in shown]
            self._digests[shape] = {digest: id for digest, id in reversed(digests) if digest is not None}
        return self._digests[shape]

    @cached_property
    def _by_size(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Place of the problem and of the picture in it, by the size in the file's header."""
        found: defaultdict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        for place, problem in enumerate(self._problems):
            for number, source in enumerate(problem.images):
                found[size(source, problem.id)].append((place, number))
        return dict(found)


def question_text(problem: Problem) -> str:
    """Return the question with its choices."""
    return "\n".join([problem.question, *problem.choices])


def gold(problem: Problem) -> str:
    """Return the gold answer in the form that is compared with another problem's."""
    return problem.answer.strip().casefold()


def _numbers(problem: Problem) -> list[str]:
    """Return the words of the question that have a digit, sorted. Problems of the same template differ in them."""
    return sorted(word for word in words(question_text(problem)) if any(letter.isdigit() for letter in word))
