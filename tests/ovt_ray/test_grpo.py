"""The GRPO loop: what it hands to the learner, when it hands over weights, and when it gives up."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ovt_ray.core.config.stages import GrpoConfig, Optimizer
from ovt_ray.core.errors import StageError
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
from ovt_ray.data.difficulty import PassRate, read_pass_rates
from ovt_ray.data.stream import ItemStream
from ovt_ray.grpo import train_grpo
from ovt_ray.rl.checkpoint import StreamState
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.run.metrics import read_metrics
from ovt_ray.run.recorder import Recorder

PROBLEMS = [Problem(id=f"p{i}", question="?", images=(), answer="1", kind=AnswerKind.NUMBER) for i in range(8)]


@dataclass
class Learner:
    waits_for: Event | None = None
    """An update takes until this is set."""
    updates: list[int] = field(default_factory=list)
    """Number of rollouts of each update."""
    problems: list[list[str]] = field(default_factory=list)
    """Problems of the samples of each update."""
    traces: list[list[int]] = field(default_factory=list)
    """Traces of each update."""
    proximal: list[set[tuple[float, ...] | None]] = field(default_factory=list)
    """Proximal log-probabilities of each update: (n,) where they were taken after n updates."""
    saved: list[int] = field(default_factory=list)
    version: int = 0

    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        assert self.waits_for is None or self.waits_for.wait(10), "nothing was generated during the update"
        rollouts = [sample for sample in samples if sample.rollout_logprobs is not None]
        self.updates.append(len(rollouts))
        self.problems.append([sample.problem.id for sample in samples])
        self.traces.append([sample.completion_ids[0] for sample in samples if sample.rollout_logprobs is None])
        self.proximal.append({sample.proximal_logprobs for sample in rollouts})
        figures: dict[str, Any] = dict.fromkeys((item.name for item in fields(UpdateStats)), 1.0)
        return UpdateStats(**figures | {"num_samples": len(samples), "num_loss_tokens": 1})

    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        return [(float(len(self.updates)),) for _ in samples]

    def publish(self) -> StoredVersion:
        self.version += 1
        return StoredVersion(Weights(version=self.version, buckets=(), checksums={}))

    def save(self, folder: Path, step: int) -> None:
        self.saved.append(step)


@dataclass
class Groups:
    """Answers every problem twice; of each pair the first is right if `mixed`, else both are wrong.

    Finishes one group at a time, the last of what was submitted first, each with the weights of when it was submitted.
    """

    mixed: bool
    during_update: Event | None = None
    """Set when something is awaited only for a while, as it is during an update."""
    loaded: list[int] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    answered: list[ScoredGroup] = field(default_factory=list)
    """Groups by the number of their request."""
    in_work: list[int] = field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        return not self.in_work

    def submit(self, problems: Sequence[Problem], sampling: Sampling, *, are_awaited: bool = False) -> list[int]:
        self.seeds.append(sampling.seed)
        begun = VersionSpan(version=self.loaded[-1] if self.loaded else 0, num_tokens=1)
        one = Completion(token_ids=(1,), rollout_logprobs=(-1.0,), text="", finish_reason="stop", versions=(begun,))
        right = Score(value=1.0, outcome=Outcome.CORRECT, extracted="1")
        wrong = Score(value=0.0, outcome=Outcome.WRONG, extracted="2")
        first = len(self.answered)
        for problem in problems:
            group = RolloutGroup(problem=problem, prompt_ids=(9,), completions=(one, one))
            self.answered.append(ScoredGroup(group=group, scores=(right if self.mixed else wrong, wrong)))
        requests = list(range(first, len(self.answered)))
        self.in_work += requests
        return requests

    def poll(self, timeout_s: float = math.inf) -> list[int]:
        if self.during_update and timeout_s != math.inf:
            self.during_update.set()
        return [self.in_work.pop(0 if self.during_update else -1)]

    def are_scored(self, request: int) -> bool:
        return True

    def scored(self, request: int) -> ScoredGroup:
        return self.answered[request]

    def abandon(self) -> None:
        self.in_work.clear()

    def load_weights(self, published: PublishedVersion) -> None:
        self.loaded.append(published.version)


@dataclass
class Services:
    groups: Groups
    learner: Learner = field(default_factory=Learner)

    @classmethod
    def of(cls, *, mixed: bool) -> "Services":
        return cls(Groups(mixed))


TRACES = [TrainSample(problem=PROBLEMS[0], completion_ids=(100 + number,)) for number in range(10)]


def grpo_stage(folder: Path, **changes: Any) -> GrpoStage:
    section = GrpoConfig(num_steps=4, problems_per_step=4, num_completions=2, optimizer=Optimizer(learning_rate=0.1))
    return GrpoStage(
        section=section.model_copy(update=changes),
        problems=ItemStream.of(PROBLEMS, 5),
        traces=TRACES,
        max_tokens=8,
        seed=5,
        folder=folder / "iter1/grpo",
        checkpoint_every=2,
    )


def run(services: Services, folder: Path, *, first_step: int = 0, rollout_is_exact: bool = False, **changes: Any) -> None:
    stage = grpo_stage(folder, **changes)
    state = StreamState(step=first_step, position=4 * first_step, rollout_is_exact=rollout_is_exact)
    with Recorder(folder, "iter1/grpo", num_steps=stage.section.num_steps, first_step=first_step) as recorder:
        train_grpo(stage, services, recorder, state)


def test_each_step_learns_hands_over_its_weights_and_draws_with_a_seed_of_its_own(tmp_path: Path) -> None:
    services = Services.of(mixed=True)
    run(services, tmp_path)
    assert services.learner.updates == [8, 8, 8, 8]
    assert services.groups.loaded == [1, 2, 3, 4]
    assert services.learner.saved == [2], "the last step needs no checkpoint: the stage ends with the model itself"
    assert len(set(services.groups.seeds)) == 4
    assert [(row.step, row.values["accuracy"], row.values["flat_groups"]) for row in read_metrics(tmp_path)] == [
        (i, 0.5, 0.0) for i in range(4)
    ]


def test_every_problem_that_was_answered_leaves_its_pass_rate_for_later_stages(tmp_path: Path) -> None:
    run(Services.of(mixed=True), tmp_path)
    rates = read_pass_rates([tmp_path / "iter1/grpo"])
    assert rates == {problem.id: PassRate(num_correct=1, num_scored=2) for problem in PROBLEMS}, "4 steps of 4 are two epochs of 8"


def test_a_step_across_the_end_of_an_epoch_has_no_problem_twice(tmp_path: Path) -> None:
    services = Services.of(mixed=True)
    run(services, tmp_path, problems_per_step=7)
    assert services.learner.updates == [14] * 4


def test_several_updates_split_a_step_and_hand_over_once(tmp_path: Path) -> None:
    services = Services.of(mixed=True)
    run(services, tmp_path, updates_per_step=2)
    assert services.learner.updates == [4] * 8
    # the first update of a step is on-policy; the second is handed what the policy said before the first
    assert services.learner.proximal == [{None}, {(0.0,)}, {None}, {(2.0,)}, {None}, {(4.0,)}, {None}, {(6.0,)}]
    assert services.groups.loaded == [1, 2, 3, 4]


def test_fresh_answers_of_an_exact_rollout_give_the_first_update_its_proximal_logprobs(tmp_path: Path) -> None:
    services = Services.of(mixed=True)
    run(services, tmp_path, updates_per_step=2, rollout_is_exact=True)
    assert services.learner.proximal == [{None}, {(-1.0,)}] * 4
    services = Services.of(mixed=True)
    run(services, tmp_path, updates_per_step=2, rollout_is_exact=True, max_staleness=1)
    assert services.learner.proximal == [{None}, {(-1.0,)}, {None}, {(2.0,)}, {None}, {(4.0,)}, {None}, {(6.0,)}]


def test_traces_are_mixed_into_every_update_only_if_asked(tmp_path: Path) -> None:
    services = Services.of(mixed=True)
    run(services, tmp_path, updates_per_step=2)
    assert services.learner.traces == [[]] * 8
    services = Services.of(mixed=True)
    run(services, tmp_path, updates_per_step=2, sft_coef=0.5, sft_batch_size=5)
    assert services.learner.updates == [4] * 8, "rollouts are what they are without traces"
    assert services.learner.proximal[:2] == [{None}, {(0.0,)}]
    # five of ten traces an update: two updates see all of them, the next two in another order
    first, second = ([*services.learner.traces[at], *services.learner.traces[at + 1]] for at in (0, 2))
    assert sorted(first) == sorted(second) == list(range(100, 110)) and first != second


def test_a_stage_that_goes_on_mixes_in_the_traces_of_an_unbroken_one(tmp_path: Path) -> None:
    whole = Services.of(mixed=True)
    run(whole, tmp_path / "whole", updates_per_step=2, sft_coef=0.5, sft_batch_size=3)
    for step in (1, 2, 3):
        rest = Services.of(mixed=True)
        run(rest, tmp_path / str(step), first_step=step, updates_per_step=2, sft_coef=0.5, sft_batch_size=3)
        assert rest.learner.traces == whole.learner.traces[2 * step :]


def test_nothing_but_zero_variance_groups_ends_the_run_with_the_reason_and_no_update(tmp_path: Path) -> None:
    services = Services.of(mixed=False)
    with pytest.raises(StageError, match="3 steps in a row had only groups whose answers all score alike.*answers 0% were correct"):
        run(services, tmp_path, max_flat_steps=3)
    assert services.learner.updates == [] and services.groups.loaded == []
    assert len(read_metrics(tmp_path)) == 3


@pytest.mark.parametrize("max_staleness", [0, 1, 2, 9])
def test_answers_are_begun_at_most_so_many_versions_before_they_are_learnt_from(tmp_path: Path, max_staleness: int) -> None:
    services = Services.of(mixed=True)
    run(services, tmp_path, max_staleness=max_staleness, num_steps=6)
    assert services.learner.updates == [8] * 6 and services.groups.loaded == [1, 2, 3, 4, 5, 6]
    assert len(set(services.groups.seeds)) == 6, "every step is answered once"
    rows = read_metrics(tmp_path)
    # the first steps' answers are all begun at once
    assert [row.values["staleness_max"] for row in rows] == [min(step, max_staleness) for step in range(6)]
    assert [row.values["staleness"] for row in rows] == [row.values["staleness_max"] for row in rows]


def test_the_order_of_a_step_is_that_of_its_problems_however_its_answers_end(tmp_path: Path) -> None:
    services = [Services.of(mixed=True), Services.of(mixed=True)]
    for one, max_staleness in zip(services, (0, 3), strict=True):
        run(one, tmp_path / str(max_staleness), max_staleness=max_staleness)
    assert services[0].learner.problems == services[1].learner.problems
    assert len(services[0].learner.problems[0]) == 8


def test_answers_of_later_steps_are_taken_in_while_the_learner_learns(tmp_path: Path) -> None:
    during_update = Event()
    services = Services(Groups(mixed=True, during_update=during_update), Learner(waits_for=during_update))
    run(services, tmp_path, max_staleness=1)
    assert services.learner.updates == [8, 8, 8, 8]
