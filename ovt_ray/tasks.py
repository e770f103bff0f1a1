"""The problems of a run: what each stage learns from, and what every stage is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovt_ray.config import DataConfig
from ovt_ray.errors import DataError
from ovt_ray.order import shuffled, stable_seed
from ovt_ray.problems import LoadedProblems, load_problems
from ovt_ray.stage_config import IterationConfig
from ovt_ray.types import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Where the problems of one run come from."""

    config: DataConfig
    seed: int
    image_folder: Path
    """Where the embedded world draws its images."""
    loaded: LoadedProblems | None
    """Problems read from files; None for the embedded world, which draws them when asked."""

    def train(self, purpose: str, num: int, hard: bool = False) -> list[Problem]:
        """Return `num` problems to learn from, in an order that follows from the run's seed and the purpose.

        Files that hold fewer give all they have.
        """
        seed = stable_seed(self.seed, purpose)
        if self.loaded is not None:
            return shuffled(self.loaded.train, seed)[:num]
        return _draw("train", num, seed, self.image_folder, hard)

    def held_out(self) -> list[Problem]:
        """Return the problems that nothing is trained on."""
        if self.loaded is not None:
            return list(self.loaded.held_out)
        return _draw(self.config.eval_split, self.config.num_eval, self.seed, self.image_folder, hard=False)


def check_amounts(tasks: Tasks, iterations: Sequence[IterationConfig]) -> None:
    """Raise DataError if a step asks for more problems at once than the data has."""
    for place, iteration in enumerate(iterations):
        asked = iteration.grpo.problems_per_step
        if tasks.loaded is not None and len(tasks.loaded.train) < asked:
            key = f"iterations.{place}.grpo.problems_per_step"
            raise DataError(f"{key}={asked} asks for more problems than the data has ({len(tasks.loaded.train)}): lower it")


def _draw(split: Literal["train", "validation", "test"], num: int, seed: int, folder: Path, hard: bool) -> list[Problem]:
    from ovt_ray.world import world_problems

    return world_problems(split, num, seed, folder, hard)


def load_tasks(config: DataConfig, seed: int, image_folder: Path, problem_folder: Path) -> Tasks:
    """Return the run's problems, kept in `problem_folder`. Raises DataError naming bad rows, unless the config says to drop them."""
    return Tasks(config=config, seed=seed, image_folder=image_folder, loaded=_load(config, problem_folder))


def _load(config: DataConfig, folder: Path) -> LoadedProblems | None:
    if config.format == "embedded":
        return None
    return load_problems(config, folder)
