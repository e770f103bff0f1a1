"""Contract: traces mixed into a GRPO update add `sft_coef` times their mean cross entropy, and no more; measuring a loss changes nothing.

The plain steps below share no code with the learner, as in plain.py.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from ovt_ray.core.config.stages import GrpoConfig
from ovt_ray.core.errors import LearnerError
from ovt_ray.core.types import TrainSample
from tests.learner.plain_torch import (
    OPTIMIZER,
    PROBLEMS,
    PlainModel,
    assert_same_run,
    current_weights,
    equal,
    grpo_stage,
    learner_config,
    sft_stage,
    single_rank,
)

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("compiled_operators")]

MIXED = GrpoConfig(
    num_steps=4, updates_per_step=2, clip_low=0.2, clip_high=0.28, kl_coef=0.05, rollout_cap=1.5, sft_coef=0.3, optimizer=OPTIMIZER
)


@pytest.fixture(scope="module")
def samples(tiny_model: Path) -> list[TrainSample]:
    """Seven rollouts and five traces in turn; one of the traces holds an image placeholder."""
    plain, generator = PlainModel(tiny_model), np.random.default_rng(1)
    made = []
    for number in range(12):
        ids = [int(id) for id in generator.integers(20, 200, size=generator.integers(3, 12))]
        if number == 3:
            ids[1] = min(plain.prompts.placeholder_ids)
        sample = TrainSample(problem=PROBLEMS[number % 4], completion_ids=tuple(ids))
        if number % 5 in (0, 2, 4):
            with torch.no_grad():
                exact = plain.logprobs(sample, 1.0).numpy()
            rollout, proximal = (tuple((exact + generator.normal(0, 0.3, len(ids))).tolist()) for _ in range(2))
            advantage = float(generator.normal())
            sample = replace(sample, rollout_logprobs=rollout, proximal_logprobs=proximal, advantage=advantage)
        made.append(sample)
    return made


def rollouts_of(samples: list[TrainSample]) -> list[TrainSample]:
    return [sample for sample in samples if sample.rollout_logprobs is not None]


def traces_of(samples: list[TrainSample]) -> list[TrainSample]:
    return [sample for sample in samples if sample.rollout_logprobs is None]


def cross_entropy(plain: PlainModel, samples: list[TrainSample]) -> torch.Tensor:
    tokens = [plain.logprobs(sample, 1.0)[plain.allowed(sample)] for sample in samples]
    return -torch.cat(tokens).mean()


def plain_step(
    policy: PlainModel, reference: PlainModel, samples: list[TrainSample], adam: torch.optim.AdamW
) -> tuple[float, float, float]:
    """Take one mixed step; return the loss, the gradient's norm and the traces' cross entropy."""
    losses = []
    for sample in rollouts_of(samples):
        now = policy.logprobs(sample, 1.0)
        with torch.no_grad():
            other = reference.logprobs(sample, 1.0)
        proximal, rollout = torch.tensor(sample.proximal_logprobs).exp(), torch.tensor(sample.rollout_logprobs).exp()
        ratio = now.exp() / proximal
        gain = torch.min(ratio * sample.advantage, ratio.clip(1 - MIXED.clip_low, 1 + MIXED.clip_high) * sample.advantage)
        kl = (other - now).exp() - (other - now) - 1
        losses.append((MIXED.kl_coef * kl - gain * (proximal / rollout).clip(max=MIXED.rollout_cap))[policy.allowed(sample)])
    traces = cross_entropy(policy, traces_of(samples))
    loss = torch.cat(losses).mean() + MIXED.sft_coef * traces
    adam.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.model.parameters(), OPTIMIZER.max_grad_norm)
    adam.step()
    return loss.item(), norm.item(), traces.item()


@pytest.fixture(scope="module")
def plain_run(tiny_model: Path, samples: list[TrainSample]) -> tuple[dict[str, torch.Tensor], list[tuple[float, float, float]]]:
    """Weights after two plain steps, and the figures of each."""
    policy, reference = PlainModel(tiny_model), PlainModel(tiny_model)
    adam = torch.optim.AdamW(
        policy.model.parameters(), lr=OPTIMIZER.learning_rate, weight_decay=OPTIMIZER.weight_decay, betas=OPTIMIZER.betas
    )
    figures = [plain_step(policy, reference, samples, adam) for _ in range(2)]
    return dict(policy.model.named_parameters()), figures


@pytest.mark.parametrize(("zero_stage", "micro_batch_tokens"), [(0, 8192), (0, 30), (2, 100), (3, 100)])
def test_two_mixed_updates_are_those_of_plain_torch(
    tiny_model: Path, samples: list[TrainSample], plain_run: Any, zero_stage: int, micro_batch_tokens: int
) -> None:
    rank = single_rank(tiny_model, learner_config(zero_stage, micro_batch_tokens=micro_batch_tokens))
    rank.begin(grpo_stage(tiny_model, section=MIXED))
    stats = [rank.update(samples) for _ in range(2)]
    weights, figures = plain_run
    assert_same_run(current_weights(rank), stats, (weights, [(loss, norm) for loss, norm, _ in figures]))
    assert [update.sft_loss for update in stats] == pytest.approx([traces for _, _, traces in figures], rel=1e-5)
    assert stats[1].sft_loss < stats[0].sft_loss


def test_traces_take_no_part_in_the_figures_of_the_rollouts(tiny_model: Path, samples: list[TrainSample]) -> None:
    rank = single_rank(tiny_model, learner_config(0))
    rank.begin(grpo_stage(tiny_model, OPTIMIZER.model_copy(update={"learning_rate": 0.0}), MIXED))
    beside, alone = rank.update(samples), rank.update(rollouts_of(samples))
    assert alone.sft_loss == 0 and beside.loss == pytest.approx(alone.loss + MIXED.sft_coef * beside.sft_loss, rel=1e-6)
    assert beside.num_loss_tokens == sum(len(sample.completion_ids) for sample in samples) - 1  # the placeholder
    its_own = {"loss": 0, "sft_loss": 0, "grad_norm": 0, "num_samples": 0, "num_loss_tokens": 0}
    assert asdict(replace(beside, **its_own)) == pytest.approx(asdict(replace(alone, **its_own)), rel=1e-5, abs=1e-6)
    assert beside.clip_high > 0 and beside.effective_share < 1


def test_an_update_of_nothing_but_traces_is_refused(tiny_model: Path, samples: list[TrainSample]) -> None:
    rank = single_rank(tiny_model, learner_config(0))
    rank.begin(grpo_stage(tiny_model, section=MIXED))
    with pytest.raises(LearnerError, match="no token with a loss, traces aside"):
        rank.update(traces_of(samples))


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_the_validation_loss_is_the_mean_cross_entropy_and_leaves_nothing_behind(
    tiny_model: Path, samples: list[TrainSample], zero_stage: int
) -> None:
    rank = single_rank(tiny_model, learner_config(zero_stage, micro_batch_tokens=60))
    rank.begin(sft_stage(tiny_model, OPTIMIZER, num_updates=2))
    with torch.no_grad():
        expected = cross_entropy(PlainModel(tiny_model), samples)
    assert rank.validation_loss(samples) == pytest.approx(expected.item(), rel=1e-6)
    assert equal(current_weights(rank), safetensors.torch.load_file(tiny_model / "model.safetensors"))
    after = rank.update(traces_of(samples))
    rank.begin(sft_stage(tiny_model, OPTIMIZER, num_updates=2))
    assert rank.update(traces_of(samples)) == after
    assert after.sft_loss == 0 and after.loss == pytest.approx(cross_entropy(PlainModel(tiny_model), traces_of(samples)).item(), rel=1e-6)
