"""A rollout pool, a reward and a learner that end what they are given in any order at any time, for the real loop of GRPO.

    python -m tests.ovt_ray.rl.stream_world FOLDER

trains a stage of 12 steps in the folder, or goes on with it, at a pace at which it can be killed.
"""

import sys
import time
from collections.abc import Sequence
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
from ovt_ray.core.weights.transport import PublishedVersion, StoredVersion
from ovt_ray.core.weights.version import Weights
from ovt_ray.data.stream import ItemStream
from ovt_ray.grpo import train_grpo
from ovt_ray.rl.checkpoint import StreamState, read_state
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.run.recorder import Recorder

ONE_UPDATE: dict[str, Any] = dict.fromkeys((item.name for item in fields(UpdateStats)), 1.0)
SCORES = {
    True: (Score(value=1.0, outcome=Outcome.CORRECT, extracted="1"), Score(value=0.0, outcome=Outcome.WRONG, extracted=None)),
    False: (Score(value=0.1, outcome=Outcome.WRONG, extracted=None),) * 2,
}
"""Scores of a group with a signal, and of a zero-variance group."""


class KilledError(Exception):
    """The run ends here and now."""


@dataclass
class Asked:
    """A problem that is being answered."""

    problem: Problem
    sampling: Sampling
    begun: int
    """Version of the weights when it came."""


@dataclass
class World:
    """Rollout pool, reward and learner in one. The same groups have zero variance in every world of a seed."""

    random: Random
    seed: int
    version: int
    zero_variance_share: float = 0.0
    ends_after: int = 10**9
    """Polls, saves and steps until it is killed."""
    pause_s: float = 0.0
    in_work: list[tuple[int, Asked]] = field(default_factory=list)
    """Requests with their numbers."""
    generated: dict[int, ScoredGroup] = field(default_factory=dict)
    """Groups by the number of their request."""
    submitted: list[tuple[int, str]] = field(default_factory=list)
    """Seed of the step and id of the problem."""
    learnt: list[list[str]] = field(default_factory=list)
    """Problems of each update."""

    @property
    def learner(self) -> "World":
        return self

    @property
    def groups(self) -> "World":
        return self

    def tick(self) -> None:
        time.sleep(self.pause_s)
        self.ends_after -= 1
        if self.ends_after < 0:
            raise KilledError

    # As source of groups
    @property
    def is_idle(self) -> bool:
        return not self.in_work

    def submit(self, problems: Sequence[Problem], sampling: Sampling, *, are_awaited: bool = False) -> list[int]:
        ids = [problem.id for problem in problems]
        in_work = [asked.problem.id for _, asked in self.in_work if asked.sampling == sampling]
        assert len({*ids, *in_work}) == len(ids) + len(in_work), "two problems of one step have the same id"
        first = len(self.submitted)
        self.submitted += [(sampling.seed, id) for id in ids]
        self.in_work += [(first + place, Asked(problem, sampling, self.version)) for place, problem in enumerate(problems)]
        return [first + place for place in range(len(problems))]

    def poll(self, timeout_s: float = 0) -> list[int]:
        self.tick()
        self.random.shuffle(self.in_work)
        ended = [self.in_work.pop() for _ in range(self.random.randint(0, len(self.in_work)))]
        self.generated |= {
            request: ScoredGroup(group=self.answer(asked), scores=SCORES[not self.has_zero_variance(asked)]) for request, asked in ended
        }
        return [request for request, _ in ended]

    def are_scored(self, request: int) -> bool:
        return self.random.random() < 0.5

    def scored(self, request: int) -> ScoredGroup:
        return self.generated.pop(request)

    def abandon(self) -> None:
        self.in_work.clear()
        self.generated.clear()

    def load_weights(self, published: PublishedVersion) -> None:
        self.version = published.version

    def answer(self, asked: Asked) -> RolloutGroup:
        return RolloutGroup(problem=asked.problem, prompt_ids=(7,), completions=(self.completion(asked), self.completion(asked)))

    def completion(self, asked: Asked) -> Completion:
        """Some tokens by each of some of the versions that came while it was generated, the logarithms with all their digits."""
        versions = sorted({asked.begun, *(self.random.randint(asked.begun, self.version) for _ in range(2))})
        spans = tuple(VersionSpan(version=version, num_tokens=self.random.randint(1, 3)) for version in versions)
        tokens = tuple(self.random.randrange(10**6) for span in spans for _ in range(span.num_tokens))
        logprobs = tuple(-self.random.random() for _ in tokens)
        return Completion(token_ids=tokens, rollout_logprobs=logprobs, text="é\n", finish_reason="stop", versions=spans)

    def has_zero_variance(self, asked: Asked) -> bool:
        return Random(f"{self.seed} {asked.sampling.seed} {asked.problem.id}").random() < self.zero_variance_share

    # As learner
    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        time.sleep(self.pause_s)
        self.learnt.append([sample.problem.id for sample in samples])
        return UpdateStats(**ONE_UPDATE)

    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        raise NotImplementedError

    def publish(self) -> StoredVersion:
        return StoredVersion(Weights(version=self.version + 1, buckets=(), checksums={}))

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
    world = World(Random(time.time()), stable_seed("world"), max(1, state.version), zero_variance_share=0.4, pause_s=0.004)
    with Recorder(folder, "iter1/grpo", num_steps=stage.section.num_steps, first_step=state.step) as recorder:
        train_grpo(stage, world, recorder, replace(state, rollout_is_exact=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
