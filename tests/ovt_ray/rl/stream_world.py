"""A rollout pool, a reward and a learner that end what they are given in any order at any time, for the real loop of GRPO.

    python -m tests.ovt_ray.rl.stream_world FOLDER

trains a stage of 12 steps in the folder, or goes on with it, at a pace at which it can be killed.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from random import Random
from typing import Any

from learner.checkpoints import complete, newest
from ovt_ray.core.config.stages import GrpoConfig, Optimizer
from ovt_ray.core.files import read_json_lines
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import (
    AnswerKind,
    Completion,
    Outcome,
    Problem,
    RolloutGroup,
    Sampling,
    Score,
    ScoredGroup,
    TrainSample,
    UpdateStats,
    VersionSpan,
)
from ovt_ray.data.stream import ItemStream
from ovt_ray.grpo import train_grpo
from ovt_ray.rl.checkpoint import StreamState, read_state
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.run.recorder import Track
from ovt_ray.services import PendingGroup

ONE_UPDATE = dict.fromkeys((item.name for item in fields(UpdateStats)), 1.0)
SCORES = {
    True: (Score(value=1.0, outcome=Outcome.CORRECT, extracted="1"), Score(value=0.0, outcome=Outcome.WRONG, extracted=None)),
    False: (Score(value=0.1, outcome=Outcome.WRONG, extracted=None),) * 2,
}
"""Of a group that teaches, and of a flat one."""


class KilledError(Exception):
    """The run ends here and now."""


@dataclass
class Asked:
    """A problem that is being answered."""

    problem: Problem
    sampling: Sampling
    on_group: Callable[[PendingGroup], None]
    begun: int
    """Version of the weights when it came."""


@dataclass
class World:
    """Rollout pool, reward and learner in one: all that `Services` is to the loop. The same groups are flat in every world of a seed."""

    random: Random
    seed: int
    version: int
    flat_share: float = 0.0
    ends_after: int = 10**9
    """Polls, saves and steps until it is killed."""
    pause_s: float = 0.0
    in_work: list[Asked] = field(default_factory=list)
    submitted: list[tuple[int, str]] = field(default_factory=list)
    """Seed of the step and id of the problem."""
    learnt: list[list[str]] = field(default_factory=list)
    """Of each update, its problems."""

    @property
    def learner(self) -> "World":
        return self

    @property
    def rollout(self) -> "World":
        return self

    def tick(self) -> None:
        time.sleep(self.pause_s)
        self.ends_after -= 1
        if self.ends_after < 0:
            raise KilledError

    # As services
    def submit(
        self, problems: Sequence[Problem], sampling: Sampling, on_group: Callable[[PendingGroup], None], *, are_awaited: bool = False
    ) -> None:
        ids = [problem.id for problem in problems]
        in_work = [asked.problem.id for asked in self.in_work if asked.sampling == sampling]
        assert len({*ids, *in_work}) == len(ids) + len(in_work), "two problems of one step have the same id"
        self.submitted += [(sampling.seed, id) for id in ids]
        self.in_work += [Asked(problem, sampling, on_group, self.version) for problem in problems]

    def are_scored(self, pending: PendingGroup) -> bool:
        return self.random.random() < 0.5

    def scores(self, pending: Sequence[PendingGroup]) -> list[ScoredGroup]:
        return [ScoredGroup(group=one.group, scores=SCORES[not one.scoring]) for one in pending]

    # As rollout pool
    @property
    def is_idle(self) -> bool:
        return not self.in_work

    def poll(self, timeout_s: float = 0) -> None:
        self.tick()
        self.random.shuffle(self.in_work)
        for _ in range(self.random.randint(0, len(self.in_work))):
            asked = self.in_work.pop()
            asked.on_group(PendingGroup(group=self.answer(asked), scoring=("flat",) if self.is_flat(asked) else ()))  # type: ignore[arg-type]

    def answer(self, asked: Asked) -> RolloutGroup:
        return RolloutGroup(problem=asked.problem, prompt_ids=(7,), completions=(self.completion(asked), self.completion(asked)))

    def completion(self, asked: Asked) -> Completion:
        """Some tokens by each of some of the versions that came while it was generated, the logarithms with all their digits."""
        versions = sorted({asked.begun, *(self.random.randint(asked.begun, self.version) for _ in range(2))})
        spans = tuple(VersionSpan(version=version, num_tokens=self.random.randint(1, 3)) for version in versions)
        tokens = tuple(self.random.randrange(10**6) for span in spans for _ in range(span.num_tokens))
        logprobs = tuple(-self.random.random() for _ in tokens)
        return Completion(token_ids=tokens, rollout_logprobs=logprobs, text="é\n", finish_reason="stop", versions=spans)

    def is_flat(self, asked: Asked) -> bool:
        return Random(f"{self.seed} {asked.sampling.seed} {asked.problem.id}").random() < self.flat_share

    def load_weights(self, version: int) -> None:
        self.version = version

    def abandon(self) -> None:
        self.in_work.clear()

    # As learner
    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        time.sleep(self.pause_s)
        self.learnt.append([sample.problem.id for sample in samples])
        return UpdateStats(**ONE_UPDATE)  # type: ignore[arg-type]

    def publish(self) -> int:
        return self.version + 1

    def save(self, folder: Path, step: int) -> None:
        self.tick()
        complete(folder, step)
        self.tick()


def stage_in(folder: Path, num_problems: int, checkpoint_every: int = 2, **changes: Any) -> GrpoStage:
    problems = [Problem(id=f"p{i}", question="?", images=(), answer="1", kind=AnswerKind.NUMBER) for i in range(num_problems)]
    section = GrpoConfig(num_steps=6, problems_per_step=3, num_completions=2, keep_rollouts=True, optimizer=Optimizer(learning_rate=0.1))
    return GrpoStage(
        section=section.model_copy(update=changes),
        problems=ItemStream.of(problems, 5),
        traces=[],
        max_tokens=8,
        seed=5,
        folder=folder / "iter1/grpo",
        checkpoint_every=checkpoint_every,
    )


def resumed(stage: GrpoStage) -> StreamState:
    return read_state(stage.checkpoints, newest(stage.checkpoints), stage.problems)


def positions_by_step(stage: GrpoStage) -> list[list[int]]:
    """Return the positions of each step's problems, as the kept rollouts have them."""
    files = [stage.folder / "rollouts" / f"step-{step:06d}.jsonl" for step in range(stage.section.num_steps)]
    return [[row["position"] for row in read_json_lines(file)[1:]] for file in files]


def main(folder: Path) -> None:
    stage = stage_in(folder, 500, num_steps=12, max_staleness=2, dynamic_sampling=True)
    state = resumed(stage)
    print(f"begins at step {state.step} with {sum(len(begun.finished) for begun in state.begun)} finished groups", flush=True)
    world = World(Random(time.time()), stable_seed("world"), max(1, state.version), flat_share=0.4, pause_s=0.004)
    with Track(folder, "iter1/grpo", stage.section.num_steps, state.step) as track:
        train_grpo(stage, world, track, replace(state, rollout_is_exact=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
