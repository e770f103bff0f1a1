"""The problems of a run: the problems that each stage learns from, and the problems that measure every stage."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ovt_ray.core.config.data import DataConfig
from ovt_ray.core.config.stages import IterationConfig, ProblemChoice, Tier
from ovt_ray.core.errors import DataError
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import Problem
from ovt_ray.data.difficulty import TIERS, read_measured_problems, read_pass_rates
from ovt_ray.data.sources import LoadedProblems, load_problems
from ovt_ray.data.stream import Interleaving, ItemStream, MixturePart
from ovt_ray.data.table import ProblemSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The problems that a stage requests."""

    purpose: str
    """Name of the stage, such as `iter1/distil`. The order depends on it."""
    num: int
    """Number of problems. A data set may hold fewer, unless `choice` has shares."""
    choice: ProblemChoice | None = None
    """Choice of the problems; None takes from all."""
    num_per_step: int = 1
    """Number of different problems per step."""
    measured_by: tuple[Path, ...] = ()
    """Folders of the stages whose pass rates count, in the order of the run."""
    hard: bool = False
    """Whether the embedded world draws its harder mixture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """The source of a run's problems."""

    config: DataConfig
    seed: int
    image_folder: Path
    """Folder in which the embedded world draws its images."""
    loaded: LoadedProblems | None
    """Problems of a data set; None for the embedded world, which draws them on request."""

    @property
    def dropped(self) -> Sequence[str]:
        """Messages about the rows that are left out."""
        return self.loaded.dropped if self.loaded else ()

    def train(self, wanted: Wanted) -> Sequence[Problem]:
        """Return `num` different training problems, in an order that depends only on the run's seed and the purpose.

        A smaller data set gives all its problems. Raises DataError if a source has too few problems for its share of a mixture.
        """
        if self.loaded is None and wanted.choice is None:
            return self._drawn(wanted)
        stream = self.stream(wanted)
        num = min(wanted.num, len(stream))
        _check_shares(stream.parts, num, wanted.purpose)
        return stream.take(0, num)

    def stream(self, wanted: Wanted) -> ItemStream[Problem]:
        """Return the endless stream of training problems, in an order that depends only on the run's seed and the purpose.

        A mixture goes through each source in epochs of its own. Raises DataError if the choice leaves too few problems for a step.
        """
        parts = self._parts(wanted)
        if wanted.choice:
            tiers = f" in tiers {', '.join(wanted.choice.tiers)}" if wanted.choice.tiers else ""
            logger.info("[%s] problems to take from%s: %s", wanted.purpose, tiers, _listed(_sizes(parts)))
        stream = ItemStream(parts, stable_seed(self.seed, wanted.purpose))
        if len(stream) < wanted.num_per_step:
            raise DataError(
                f"{wanted.purpose}: a step takes {wanted.num_per_step:,} different problems, and there are {_listed(_sizes(parts))} "
                "to take from: choose more tiers or sources, or lower problems_per_step"
            )
        _check_shares(parts, wanted.num_per_step, wanted.purpose)
        return stream

    def held_out(self) -> list[Problem]:
        """Return the held-out problems, which no stage trains on."""
        if self.loaded is not None:
            return list(self.loaded.held_out)
        return _draw(self.config.eval_split, self.config.num_eval, self.seed, self.image_folder)

    def sources(self) -> Counter[str]:
        """Return the number of training problems of each source. The endless embedded world has 0 for each kind of question."""
        if self.loaded is None:
            from ovt_ray.world import KIND_OF

            return Counter(dict.fromkeys(KIND_OF, 0))
        return Counter(self.loaded.train.column("source"))

    def _drawn(self, wanted: Wanted) -> list[Problem]:
        return _draw("train", wanted.num, stable_seed(self.seed, wanted.purpose), self.image_folder, hard=wanted.hard)

    def _parts(self, wanted: Wanted) -> list[MixturePart[Problem]]:
        shares = wanted.choice.sources if wanted.choice else None
        tiers = wanted.choice.tiers if wanted.choice else None
        if self.loaded is not None:
            return _split(_of_tiers(self.loaded.train, tiers, wanted), shares, wanted.purpose)
        if tiers:
            return _split(_of_tiers(read_measured_problems(wanted.measured_by), tiers, wanted), shares, wanted.purpose)
        if shares is None:
            return [MixturePart(name="", items=self._drawn(wanted))]
        seed, counts = stable_seed(self.seed, wanted.purpose), Interleaving(list(shares.values())).counts(wanted.num)
        return [
            MixturePart(name=kind, items=_draw("train", max(1, num), seed, self.image_folder, kind_name=kind), share=share)
            for (kind, share), num in zip(shares.items(), counts, strict=True)
        ]


def check_amounts(tasks: Tasks, place: int, iteration: IterationConfig) -> None:
    """Raise DataError if a stage of `iterations[place]` asks for a source that the data lacks, or for more problems than there are.

    A choice of tiers is not checked: the number of problems in a tier is known only once they are measured.
    """
    grpo, distil = iteration.grpo, iteration.distil
    asked = grpo.problems_per_step
    if tasks.loaded is not None and len(tasks.loaded.train) < asked:
        key = f"iterations.{place}.grpo.problems_per_step"
        raise DataError(f"{key}={asked} asks for more problems than the data has ({len(tasks.loaded.train)}): lower it")
    stages = [("distil", distil.problems, distil.num_problems)] if distil else []
    for name, choice, num in (*stages, ("grpo", grpo.problems, asked)):
        if choice and choice.sources:
            where = f"iterations.{place}.{name}"
            _check_sources(choice.sources, tasks.sources(), where)
            if tasks.loaded is not None and not choice.tiers:
                _check_shares(_split(tasks.loaded.train, choice.sources, where), num, where)


def load_tasks(config: DataConfig, seed: int, image_folder: Path, problem_folder: Path) -> Tasks:
    """Return the run's problems, kept in `problem_folder`. Raises DataError that names bad rows, unless the config drops them."""
    loaded = None if config.format == "embedded" else load_problems(config, problem_folder)
    return Tasks(config=config, seed=seed, image_folder=image_folder, loaded=loaded)


def _draw(
    split: Literal["train", "validation", "test"], num: int, seed: int, folder: Path, *, hard: bool = False, kind_name: str | None = None
) -> list[Problem]:
    from ovt_ray.world import world_problems

    return world_problems(split, num, seed, folder, hard=hard, kind_name=kind_name)


def _of_tiers(problems: Sequence[Problem], tiers: Sequence[Tier] | None, wanted: Wanted) -> Sequence[Problem]:
    """Return the problems whose measured pass rate is in one of the tiers. Raises DataError if there are none."""
    if tiers is None:
        return problems
    rates = read_pass_rates(wanted.measured_by)
    tier_of = [rates[id].tier if id in rates else None for id in _column(problems, "id")]
    if chosen := _at(problems, (place for place, tier in enumerate(tier_of) if tier in tiers)):
        return chosen
    num_of = Counter(tier_of)
    counts = ", ".join(f"{tier} {num_of[tier]:,}" for tier in TIERS)
    raise DataError(
        f"{wanted.purpose}: problems.tiers {', '.join(tiers)}: no training problem is in them; there are {counts}, "
        f"and {num_of[None]:,} not measured: choose others"
    )


def _split(problems: Sequence[Problem], shares: Mapping[str, float] | None, where: str) -> list[MixturePart[Problem]]:
    """Return the problems as the parts of a mixture, or as a single part. Raises DataError if a part has no problems."""
    if shares is None:
        return [MixturePart(name="", items=problems)]
    sources = np.array(_column(problems, "source"))
    _check_sources(shares, Counter(sources.tolist()), where)
    return [MixturePart(name=name, items=_at(problems, np.flatnonzero(sources == name)), share=share) for name, share in shares.items()]


def _check_sources(shares: Iterable[str], counts: Mapping[str, int], where: str) -> None:
    if unknown := [name for name in shares if name not in counts]:
        raise DataError(f"{where}: problems.sources {unknown[0]!r}: there is none of that name, but {_listed(counts)}")


def _check_shares(parts: Sequence[MixturePart[Problem]], num: int, where: str) -> None:
    """Raise DataError if a part of a mixture holds fewer different problems than its share of the first `num`."""
    needed = Interleaving([part.share for part in parts]).counts(num)
    for part, count in zip(parts, needed, strict=True):
        if len(part.items) < count:
            have = _listed(_sizes(parts))
            raise DataError(
                f"{where}: problems.sources: {count:,} of {num:,} problems are to be of {part.name!r}, which runs dry: there are {have}; "
                "lower its share, or ask for fewer problems"
            )


def _sizes(parts: Iterable[MixturePart[Problem]]) -> dict[str, int]:
    return {part.name or "all": len(part.items) for part in parts}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name!r} {count:,}" if count else repr(name) for name, count in sorted(counts.items()))


def _column(problems: Sequence[Problem], name: Literal["id", "source"]) -> list[str]:
    if isinstance(problems, ProblemSet):
        return problems.column(name)
    return [problem.id if name == "id" else problem.source for problem in problems]


def _at(problems: Sequence[Problem], places: Iterable[int]) -> Sequence[Problem]:
    return problems.select(places) if isinstance(problems, ProblemSet) else [problems[place] for place in places]
