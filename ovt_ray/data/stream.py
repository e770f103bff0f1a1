"""Endless streams of items, from one part or a mixture of parts, in an order that depends only on a seed and a position."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Generic, TypeVar

from ovt_ray.core.seeds import stable_seed
from ovt_ray.data.order import permutation

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class MixturePart(Generic[Item]):
    """Items of the same kind, and their share of a mixture."""

    name: str
    """Name of the part. Its shuffles depend on it, and thus not on the other parts."""
    items: Sequence[Item]
    share: float = 1.0
    """Weight of the part, relative to the other parts."""


class Interleaving:
    """The part at each position of a mixture. Among the first n items, each part has its share of n to within one item.

    This is the quota method of Balinski and Young (American Mathematical Monthly 82(7), 1975). A turn goes to the part whose next item is
    due first, among the parts that would not get ahead of their share. The turns repeat after the number of items that makes every share
    whole.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        exact = [Fraction(str(share)) for share in shares]  # by its decimals: as a binary fraction, 0.1 would make a huge cycle
        scale = lcm(*(share.denominator for share in exact))
        self._weights = [int(share * scale) for share in exact]
        self._turns = array("I")
        self._places = array("Q")
        self._counts = [0] * len(shares)

    def turn(self, position: int) -> tuple[int, int]:
        """Return the part at a position, and the number of turns that it had before."""
        cycle, place = divmod(position, sum(self._weights))
        while len(self._turns) <= place:
            self._extend()
        part = self._turns[place]
        return part, self._places[place] + cycle * self._weights[part]

    def counts(self, num: int) -> list[int]:
        """Return the number of items that each part has among the first `num` items."""
        counts = [0] * len(self._weights)
        for position in range(num):
            counts[self.turn(position)[0]] += 1
        return counts

    def _extend(self) -> None:
        num, total = len(self._turns) + 1, sum(self._weights)
        in_quota = [part for part, count in enumerate(self._counts) if count * total < self._weights[part] * num]
        part = min(in_quota, key=lambda part: Fraction(self._counts[part] + 1, self._weights[part]))
        self._turns.append(part)
        self._places.append(self._counts[part])
        self._counts[part] += 1


@dataclass(frozen=True)
class ItemStream(Generic[Item]):
    """Items by position, from 0 without end.

    Each part goes through all its items before it repeats any, epoch after epoch. The order depends only on seed, part and epoch. Disjoint
    ranges of positions never repeat an item within an epoch, and continuing from a position skips none.
    """

    parts: Sequence[MixturePart[Item]]
    seed: int

    def __len__(self) -> int:
        """Return the number of different items."""
        return sum(len(part.items) for part in self.parts)

    def __getitem__(self, position: int) -> Item:
        number, turn = self.interleaving.turn(position)
        part = self.parts[number]
        epoch, place = divmod(turn, len(part.items))
        seed = stable_seed(self.seed, part.name, epoch) if len(self.parts) > 1 else stable_seed(self.seed, epoch)
        return part.items[permutation(len(part.items), seed)[place]]

    def take(self, position: int, count: int) -> list[Item]:
        """Return `count` items from a position on."""
        return [self[place] for place in range(position, position + count)]

    @classmethod
    def of(cls, items: Sequence[Item], seed: int) -> "ItemStream[Item]":
        """Return the stream of a single part."""
        return cls([MixturePart(name="", items=items)], seed)

    @cached_property
    def interleaving(self) -> Interleaving:
        """The part at each position."""
        return Interleaving([part.share for part in self.parts])
