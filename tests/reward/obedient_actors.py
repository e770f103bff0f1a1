"""Rewards as Ray actors that do what their text says: they hang, raise, kill their process or take their time."""

import asyncio
import os
import signal
import time
from pathlib import Path

import ray

from ovt_ray.core.types import Outcome, Problem, Score


def tenths(text: str) -> float:
    """Return a tenth of a text's length: what an actor class uses of its file has to reach the actor."""
    return len(text) / 10


@ray.remote(num_cpus=0)
class Obey:
    """Does what its text says, one after the other."""

    def __init__(self, bonus: float = 0.0) -> None:
        self.bonus = bonus
        self.num_seen = 0

    def __call__(self, problem: Problem, text: str, num_tokens: int) -> Score:
        self.num_seen += 1
        order, _, argument = text.partition(" ")
        match order:
            case "hang":
                time.sleep(3600)
            case "raise":
                raise KeyError("no such part")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "once":
                if not Path(argument).exists():
                    Path(argument).write_text(str(os.getpid()))
                    time.sleep(3600)
        return Score(value=num_tokens + self.bonus, outcome=Outcome.CORRECT, extracted=str(os.getpid()), reason=f"number {self.num_seen}")


@ray.remote(num_cpus=0)
class Patient:
    """Takes half a second for each text, but many at a time."""

    async def __call__(self, problem: Problem, text: str) -> float:
        await asyncio.sleep(3600 if text == "hang" else 0.5)
        return float(len(text))


@ray.remote(num_cpus=0)
class Batch:
    """Scores all texts of a problem at once."""

    def score_batch(self, problem: Problem, texts: list[str]) -> list[float]:
        if "raise" in texts:
            raise KeyError("in a batch")
        return [len(texts) + tenths(text) for text in texts]
