"""Deterministic order: which items a step uses follows from the seed and the step alone, or from a place in a stream."""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

Item = TypeVar("Item")


def stable_seed(*parts: int | str) -> int:
    """Return a 56-bit seed that depends on every part, the same in every process."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in an order that depends on the seed alone."""
    order = list(items)
    random.Random(seed).shuffle(order)
    return order


@dataclass(frozen=True, slots=True)
class Epochs(Generic[Item]):
    """Items without end: epoch after epoch, each an order of all items that depends on the seed and the epoch alone."""

    items: Sequence[Item]
    seed: int

    def __len__(self) -> int:
        """Return the number of items of an epoch."""
        return len(self.items)

    def __getitem__(self, position: int) -> Item:
        """Return the item at a place of the stream, counted from 0."""
        epoch, place = divmod(position, len(self.items))
        return self.items[_epoch_order(len(self.items), stable_seed(self.seed, epoch))[place]]


@lru_cache(maxsize=4)
def _epoch_order(num_items: int, seed: int) -> Sequence[int]:
    return shuffled(range(num_items), seed)


def batch_at(items: Sequence[Item], step: int, batch_size: int, seed: int, *, drop_last: bool = True) -> list[Item]:
    """Return the batch of one step: each epoch is a fresh shuffle cut into batches, so none repeats an item.

    What does not fill a last batch is left for the next epoch's shuffle; without `drop_last` it is a smaller batch, so that an epoch
    holds every item. Fewer items than a batch are one batch.
    """
    batches_per_epoch = max(1, len(items) // batch_size) if drop_last else batches_of_epochs(1, len(items), batch_size)
    epoch, position = divmod(step, batches_per_epoch)
    order = shuffled(items, stable_seed(seed, epoch))
    return order[position * batch_size : (position + 1) * batch_size]


def batches_of_epochs(num_epochs: float, num_items: int, batch_size: int) -> int:
    """Return how many batches some epochs have, the smaller last one of each among them; a part of a batch counts as one."""
    batches_per_epoch = math.ceil(num_items / batch_size)
    return math.ceil(round(num_epochs * batches_per_epoch, 6))  # 1.1 * 10 is a little more than 11
