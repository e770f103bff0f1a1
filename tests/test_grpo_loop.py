"""The GRPO loop: what it hands to the learner, when it hands over weights, and when it gives up."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from ovt_ray.errors import StageError
from ovt_ray.grpo import train_grpo
from ovt_ray.metrics import read_metrics
from ovt_ray.stage_config import GrpoConfig, Optimizer
from ovt_ray.track import Track
from ovt_ray.types import AnswerKind, Completion, Outcome, Problem, RolloutGroup, Sampling, Score, ScoredGroup, TrainSample, UpdateStats

PROBLEMS = [Problem(id=f"p{i}", question="?", images=(), answer="1", kind=AnswerKind.NUMBER) for i in range(8)]


@dataclass
class Learner:
    updates: list[int] = field(default_factory=list)
    """Of each update, how many rollouts it was handed."""
    traces: list[list[int]] = field(default_factory=list)
    """Of each update, the traces it was handed."""
    proximal: list[set[tuple[float, ...] | None]] = field(default_factory=list)
    """Of each update, the proximal log-probabilities it was handed: (n,) where they were taken after n updates."""
    saved: list[int] = field(default_factory=list)
    published: int = 0

    def update(self, samples: Sequence[TrainSample]) -> UpdateStats:
        rollouts = [sample for sample in samples if sample.rollout_logprobs is not None]
        self.updates.append(len(rollouts))
        self.traces.append([sample.completion_ids[0] for sample in samples if sample.rollout_logprobs is None])
        self.proximal.append({sample.proximal_logprobs for sample in rollouts})
        names = [item.name for item in fields(UpdateStats)]
        return UpdateStats(**dict.fromkeys(names, 1.0) | {"num_samples": len(samples), "num_loss_tokens": 1})  # type: ignore[arg-type]

    def logprobs(self, samples: Sequence[TrainSample]) -> list[tuple[float, ...]]:
        return [(float(len(self.updates)),) for _ in samples]

    def publish(self) -> int:
        self.published += 1
        return self.published

    def save(self, folder: Path, step: int) -> None:
        self.saved.append(step)


@dataclass
class Rollout:
    loaded: list[int] = field(default_factory=list)

    def load_weights(self, version: int) -> None:
        self.loaded.append(version)


@dataclass
class Services:
    """Answers every problem twice; of each pair the first is right if `mixed`, else both are wrong."""

    mixed: bool
    learner: Learner = field(default_factory=Learner)
    rollout: Rollout = field(default_factory=Rollout)
    seeds: list[int] = field(default_factory=list)

    def generate(self, problems: Sequence[Problem], sampling: Sampling) -> list[RolloutGroup]:
        self.seeds.append(sampling.seed)
        one = Completion(token_ids=(1,), rollout_logprobs=(-1.0,), text="", finish_reason="stop", version=0)
        return [RolloutGroup(problem=problem, prompt_ids=(9,), completions=(one, one)) for problem in problems]

    def scores(self, pending: Sequence[RolloutGroup]) -> list[ScoredGroup]:
        right = Score(value=1.0, outcome=Outcome.CORRECT, extracted="1")
        wrong = Score(value=0.0, outcome=Outcome.WRONG, extracted="2")
        return [ScoredGroup(group=group, scores=(right if self.mixed else wrong, wrong)) for group in pending]


TRACES = [TrainSample(problem=PROBLEMS[0], completion_ids=(100 + number,)) for number in range(10)]


def run(services: Services, folder: Path, *, first_step: int = 0, **changes: float) -> None:
    section = GrpoConfig(num_steps=4, problems_per_step=4, num_completions=2, optimizer=Optimizer(learning_rate=0.1)).model_copy(
        update=changes
    )
    with Track(folder, "iter1/grpo", section.num_steps, first_step) as track:
        train_grpo(
            section,
            PROBLEMS,
            TRACES,
            services,  # type: ignore[arg-type]
            track,
            max_tokens=8,
            checkpoints=folder,
            checkpoint_every=2,
            first_step=first_step,
            seed=5,
        )


def test_each_step_learns_hands_over_its_weights_and_draws_with_a_seed_of_its_own(tmp_path: Path) -> None:
    services = Services(mixed=True)
    run(services, tmp_path)
    assert services.learner.updates == [8, 8, 8, 8]
    assert services.rollout.loaded == [1, 2, 3, 4]
    assert services.learner.saved == [2], "the last step needs no checkpoint: the stage ends with the model itself"
    assert len(set(services.seeds)) == 4
    assert [(row.step, row.values["accuracy"], row.values["flat_groups"]) for row in read_metrics(tmp_path)] == [
        (i, 0.5, 0.0) for i in range(4)
    ]


def test_several_updates_split_a_step_and_hand_over_once(tmp_path: Path) -> None:
    services = Services(mixed=True)
    run(services, tmp_path, updates_per_step=2)
    assert services.learner.updates == [4] * 8
    # the first update of a step is on-policy; the second is handed what the policy said before the first
    assert services.learner.proximal == [{None}, {(0.0,)}, {None}, {(2.0,)}, {None}, {(4.0,)}, {None}, {(6.0,)}]
    assert services.rollout.loaded == [1, 2, 3, 4]


def test_traces_are_mixed_into_every_update_only_if_asked(tmp_path: Path) -> None:
    services = Services(mixed=True)
    run(services, tmp_path, updates_per_step=2)
    assert services.learner.traces == [[]] * 8
    services = Services(mixed=True)
    run(services, tmp_path, updates_per_step=2, sft_coef=0.5, sft_batch_size=5)
    assert services.learner.updates == [4] * 8, "rollouts are what they are without traces"
    assert services.learner.proximal[:2] == [{None}, {(0.0,)}]
    # five of ten traces an update: two updates see all of them, the next two in another order
    first, second = ([*services.learner.traces[at], *services.learner.traces[at + 1]] for at in (0, 2))
    assert sorted(first) == sorted(second) == list(range(100, 110)) and first != second


def test_a_stage_that_goes_on_mixes_in_the_traces_of_an_unbroken_one(tmp_path: Path) -> None:
    whole = Services(mixed=True)
    run(whole, tmp_path / "whole", updates_per_step=2, sft_coef=0.5, sft_batch_size=3)
    for step in (1, 2, 3):
        rest = Services(mixed=True)
        run(rest, tmp_path / str(step), first_step=step, updates_per_step=2, sft_coef=0.5, sft_batch_size=3)
        assert rest.learner.traces == whole.learner.traces[2 * step :]


def test_nothing_but_flat_groups_ends_the_run_with_the_reason_and_no_update(tmp_path: Path) -> None:
    services = Services(mixed=False)
    with pytest.raises(StageError, match="3 steps in a row had only groups whose answers all score alike.*0% were correct"):
        run(services, tmp_path, max_flat_steps=3)
    assert services.learner.updates == [] and services.rollout.loaded == []
    assert len(read_metrics(tmp_path)) == 3
