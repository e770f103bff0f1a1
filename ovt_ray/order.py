"""Deterministic order: which items a step uses follows from the seed and the step alone."""

import hashlib
import random
from collections.abc import Sequence
from typing import TypeVar

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


def batch_at(items: Sequence[Item], step: int, batch_size: int, seed: int) -> list[Item]:
    """Return the batch of one step: each epoch is a fresh shuffle cut into full batches, so none repeats an item.

    What does not fill a last batch is left for the next epoch's shuffle; fewer items than a batch are one batch.
    """
    batches_per_epoch = max(1, len(items) // batch_size)
    epoch, position = divmod(step, batches_per_epoch)
    order = shuffled(items, stable_seed(seed, epoch))
    return order[position * batch_size : (position + 1) * batch_size]
