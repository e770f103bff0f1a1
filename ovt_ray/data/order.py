"""Deterministic order: the items of a step depend only on the seed and the step, or on a position in a stream."""

import math
import random
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeVar

from ovt_ray.core.seeds import stable_seed

Item = TypeVar("Item")


@lru_cache(maxsize=32)
def permutation(num_items: int, seed: int) -> Sequence[int]:
    """Return the places 0 to `num_items` - 1 in an order that depends only on the seed. A cache keeps 32 orders at four bytes a place."""
    order = array("I", range(num_items))
    random.Random(seed).shuffle(order)
    return order


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in an order that depends only on the seed."""
    return [items[place] for place in permutation(len(items), seed)]


def batch_at(items: Sequence[Item], step: int, batch_size: int, seed: int, *, drop_last: bool = True) -> list[Item]:
    """Return the batch of a step. Each epoch is a fresh shuffle, cut into batches, so no epoch repeats an item.

    Items that do not fill a last batch are left for the next epoch's shuffle. Without `drop_last` they are a smaller batch, so that an
    epoch holds every item. Fewer items than a batch are a single batch.
    """
    batches_per_epoch = max(1, len(items) // batch_size) if drop_last else batches_of_epochs(1, len(items), batch_size)
    epoch, position = divmod(step, batches_per_epoch)
    order = permutation(len(items), stable_seed(seed, epoch))
    return [items[place] for place in order[position * batch_size : (position + 1) * batch_size]]


def batches_of_epochs(num_epochs: float, num_items: int, batch_size: int) -> int:
    """Return the number of batches in some epochs, with the smaller last batch of each. A part of a batch counts as a batch."""
    batches_per_epoch = math.ceil(num_items / batch_size)
    return math.ceil(round(num_epochs * batches_per_epoch, 6))  # 1.1 * 10 is a little more than 11
