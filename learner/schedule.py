"""The learning rate of each update."""

import math

from ovt_ray.core.config.stages import Optimizer


def learning_rate(optimizer: Optimizer, update: int, num_updates: int) -> float:
    """Return the learning rate of update `update` (0 is the first) of `num_updates`.

    It rises linearly from 0, which stands before the first update, to its peak at the first update after the warm-up. Then it falls along
    half a cosine to `final_lr` times the peak at the last update.
    """
    num_warmup = round(optimizer.warmup * num_updates)
    if update < num_warmup:
        return optimizer.learning_rate * (update + 1) / (num_warmup + 1)
    progress = (update - num_warmup) / max(1, num_updates - 1 - num_warmup)
    share = optimizer.final_lr + (1 - optimizer.final_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return optimizer.learning_rate * share
