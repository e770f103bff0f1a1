"""Represents texts as runs of words, and finds similar texts among many. All functions take time linear in a text."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")
Grams = NDArray[np.int64]
"""Hashes of the different runs of words of a text, in ascending order."""

NUM_WORDS = 3
"""Number of words in a run by which texts are compared."""
MAX_SAMPLE = 2000
"""Number of texts that suffice to find the rare runs."""
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_ASCII_WORD = re.compile(r"\w{1,16}|[^\w\s]", re.ASCII)
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W{_IDEOGRAPHS}]{{1,16}}|[^\w\s]")
"""A word: an ideograph, a sign, or at most 16 letters and digits. With that bound endless digits are many words."""


def words(text: str) -> list[str]:
    """Return the words and signs of a text in lower case, without white space."""
    pattern = _ASCII_WORD if text.isascii() else _WORD  # the same words, several times faster
    return pattern.findall(text.casefold())


@lru_cache(maxsize=64)
def grams(text: str) -> Grams:
    """Return the three-word runs of a text. A shorter text is a single run, and a text without words has none."""
    spoken = words(text)
    runs = zip(*(spoken[first:] for first in range(NUM_WORDS)), strict=False) if len(spoken) > NUM_WORDS else [tuple(spoken)]
    return np.unique(np.fromiter(map(hash, runs), np.int64)) if spoken else np.empty(0, np.int64)


def similarity(first: Grams, second: Grams) -> float:
    """Return the Jaccard index of two sets of runs, from 0 (disjoint) to 1 (equal); 0 if either is empty."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared) if shared else 0.0


def sample(items: Sequence[Item]) -> Sequence[Item]:
    """Return at most `MAX_SAMPLE` of the items, evenly drawn."""
    return items[:: math.ceil(len(items) / MAX_SAMPLE) or 1]


class SimilarTexts:
    """Finds exactly the texts whose similarity to another text is at least `bound`, without comparing it with all texts.

    Two sets of n and m runs with a Jaccard index of `bound` share at least `bound * n` of the n runs. In a common order, their first
    n - bound * n + 1 and m - bound * m + 1 runs therefore share a run (prefix filtering: Chaudhuri et al., ICDE 2006). With the rarest runs
    first, few other texts have it.
    """

    def __init__(self, sample: Sequence[Grams], bound: float) -> None:
        """`sample` holds some of the later texts and decides which runs are rare. Only the speed depends on it."""
        self._bound = bound
        self._values, self._counts = np.unique(np.concatenate([np.empty(0, np.int64), *sample]), return_counts=True)
        self._texts: list[Grams] = []
        self._places: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, text: Grams) -> None:
        """Add a text. Its place is the number of texts added before."""
        for run in self._rarest(text):
            self._places[run].append(len(self._texts))
        self._texts.append(text)

    def similar(self, text: Grams) -> list[tuple[int, float]]:
        """Return place and similarity of the similar texts, in the order of their addition."""
        candidates = sorted({place for run in self._rarest(text) for place in self._places.get(run, ())})
        alike = ((place, similarity(text, self._texts[place])) for place in candidates)
        return [(place, share) for place, share in alike if share >= self._bound]

    def _rarest(self, text: Grams) -> Sequence[int]:
        if not len(text):
            return []
        places = np.searchsorted(self._values, text).clip(max=max(0, len(self._values) - 1))
        counts = np.where(self._values[places] == text, self._counts[places], 0) if len(self._values) else np.zeros(len(text))
        num_kept = len(text) - math.ceil(self._bound * len(text) - 1e-9) + 1
        return text[np.lexsort((text, counts))[:num_kept]].tolist()
