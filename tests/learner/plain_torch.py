"""A learner of one rank in this process, samples for it, and the same steps taken by plain torch: what the learner's tests share.

`PlainModel` shares no code with the learner: it runs transformers' own forward pass on one sequence at a time.
"""

import io
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import Tensor

from learner.group import LearnerGroup
from learner.rank import LearnerRank
from learner.stage import Stage
from learner.weights import weight_buckets
from ovt_ray.core.config.run import LearnerConfig, ModelConfig
from ovt_ray.core.config.stages import GrpoConfig, Optimizer
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import AnswerKind, Problem, TrainSample, UpdateStats
from ovt_ray.core.weights.version import Weights, WeightTensor
from ovt_ray.rl.stage import learner_stage

OPTIMIZER = Optimizer(learning_rate=2e-4, warmup=0.0, final_lr=1.0, weight_decay=0.1, max_grad_norm=0.5)
GRPO = GrpoConfig(
    num_steps=4, updates_per_step=2, temperature=0.7, clip_low=0.2, clip_high=0.28, kl_coef=0.05, rollout_cap=1.5, optimizer=OPTIMIZER
)
NUM_UPDATES = 2
KEY_BIASES = ("k_proj.bias", "qkv.bias")
"""Softmax does not see a bias of the keys: its gradient is rounding noise, which Adam blows up to whole steps."""


def picture(size: tuple[int, int], colour: str) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format="PNG")
    return file.getvalue()


def problem(name: str, *images: bytes) -> Problem:
    return Problem(id=name, question=f"What is {name}?", images=images, answer="1", kind=AnswerKind.NUMBER)


PROBLEMS = [
    problem("one image", picture((84, 56), "red")),
    problem("a larger image", picture((112, 84), "blue")),
    problem("two images", picture((56, 56), "green"), picture((84, 56), "white")),
    problem("no image"),
    problem("none either"),
]


class PlainModel:
    """transformers' model, stepped by torch alone, one sequence at a time."""

    def __init__(self, path: Path) -> None:
        from transformers import AutoModelForImageTextToText

        self.model = AutoModelForImageTextToText.from_pretrained(path)
        self.prompts = Prompts(str(path), ModelConfig(path=str(path)))

    def logprobs(self, sample: TrainSample, temperature: float) -> Tensor:
        """(T,) of the completion's tokens."""
        inputs = self.prompts.inputs(sample.problem)
        forbidden = list(self.prompts.placeholder_ids)
        completion = [self.prompts.eos_id if id in forbidden else id for id in sample.completion_ids]
        ids = torch.tensor([[*inputs.prompt_ids, *completion]])
        is_image = ids == self.model.config.image_token_id
        logits = self.model(input_ids=ids, **inputs.images, mm_token_type_ids=is_image.int()).logits[0, len(inputs.prompt_ids) - 1 : -1]
        keep = torch.ones(logits.shape[-1], dtype=torch.bool)
        keep[forbidden] = False
        weights = torch.where(keep, torch.exp(logits / temperature), 0.0)
        return torch.log(weights[range(len(completion)), completion] / weights.sum(-1))

    def allowed(self, sample: TrainSample) -> Tensor:
        return torch.tensor([id not in self.prompts.placeholder_ids for id in sample.completion_ids])

    def step(self, samples: list[TrainSample], reference: "PlainModel", adam: torch.optim.AdamW) -> tuple[float, float]:
        """Take one GRPO step; return the loss and the gradient's norm."""
        num_tokens = sum(int(self.allowed(sample).sum()) for sample in samples)
        total = torch.zeros(())
        for sample in samples:
            policy = self.logprobs(sample, GRPO.temperature)
            with torch.no_grad():
                other = reference.logprobs(sample, GRPO.temperature)
            proximal, rollout = torch.tensor(sample.proximal_logprobs).exp(), torch.tensor(sample.rollout_logprobs).exp()
            ratio = policy.exp() / proximal
            bounded = ratio.clip(1 - GRPO.clip_low, 1 + GRPO.clip_high)
            gain = torch.min(ratio * sample.advantage, bounded * sample.advantage) * (proximal / rollout).clip(max=GRPO.rollout_cap)
            kl = (other - policy).exp() - (other - policy) - 1
            total = total + ((GRPO.kl_coef * kl - gain) * self.allowed(sample)).sum()
        adam.zero_grad()
        loss = total / num_tokens
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), OPTIMIZER.max_grad_norm)
        adam.step()
        return loss.item(), norm.item()


def drawn_samples(model: Path) -> list[TrainSample]:
    """Three completions of each problem, whose three policies differ, one with an image placeholder in its answer."""
    plain, generator = PlainModel(model), np.random.default_rng(0)
    placeholder = min(plain.prompts.placeholder_ids)
    made = []
    for number in range(15):
        ids = [int(id) for id in generator.integers(20, 200, size=generator.integers(3, 12))]
        if number == 4:
            ids[1] = placeholder
        sample = TrainSample(problem=PROBLEMS[number // 3], completion_ids=tuple(ids), advantage=float(generator.normal()))
        with torch.no_grad():
            exact = plain.logprobs(sample, GRPO.temperature).numpy()
        rollout, proximal = (tuple((exact + generator.normal(0, 0.3, len(ids))).tolist()) for _ in range(2))
        made.append(replace(sample, rollout_logprobs=rollout, proximal_logprobs=proximal))
    return made


def plain_steps(model: Path, samples: list[TrainSample]) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    """Weights after two plain steps, and each step's loss and gradient norm."""
    policy, reference = PlainModel(model), PlainModel(model)
    adam = torch.optim.AdamW(
        policy.model.parameters(), lr=OPTIMIZER.learning_rate, weight_decay=OPTIMIZER.weight_decay, betas=OPTIMIZER.betas
    )
    figures = [policy.step(samples, reference, adam) for _ in range(NUM_UPDATES)]
    return dict(policy.model.named_parameters()), figures


def learner_config(zero_stage: int, **changes: Any) -> LearnerConfig:
    return LearnerConfig.model_validate({"zero_stage": zero_stage, "micro_batch_tokens": 100, "deadline_s": 120, **changes})


def grpo_stage(model: Path, optimizer: Optimizer = OPTIMIZER, section: GrpoConfig = GRPO) -> Stage:
    return learner_stage(section.model_copy(update={"optimizer": optimizer}), str(model), num_updates=8)


def sft_stage(model: Path, optimizer: Optimizer, num_updates: int) -> Stage:
    return Stage(model_path=str(model), optimizer=optimizer, num_updates=num_updates, policy_loss=None, temperature=1.0)


def single_rank(model: Path, config: LearnerConfig) -> LearnerRank:
    """A group of one, in this process."""
    with socket.socket() as free:
        free.bind(("", 0))
        address = ("127.0.0.1", free.getsockname()[1])
    rank = LearnerRank(config, ModelConfig(path=str(model)), seed=0)
    rank.join(0, 1, address)
    return rank


def current_weights(rank: LearnerRank) -> dict[str, Tensor]:
    return {name: tensor.clone() for bucket in weight_buckets(rank.policy, keep=True) for name, tensor in bucket.items()}


def publish(group: LearnerGroup) -> Weights:
    """Return the next version of the weights, which is in the object store."""
    weights = group.publish().for_late_joiner()
    assert weights
    return weights


def published_weights(weights: Weights) -> dict[str, Tensor]:
    """The version's tensors, adapters merged."""
    found = {tensor.name: as_tensor(tensor) for bucket in ray.get(list(weights.buckets)) for tensor in bucket}
    for adapter in [adapter for bucket in ray.get(list(weights.adapters)) for adapter in bucket]:
        base = found[adapter.name]
        change = (adapter.scale * as_tensor(adapter.up).float()) @ as_tensor(adapter.down).float()
        found[adapter.name] = (base.float() + change).to(base.dtype)
    return found


def as_tensor(sent: WeightTensor) -> Tensor:
    return torch.from_numpy(sent.content.copy()).view(getattr(torch, sent.dtype)).view(sent.shape)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def assert_same_run(
    weights: dict[str, Tensor], stats: list[UpdateStats], plain_run: tuple[dict[str, Tensor], list[tuple[float, float]]]
) -> None:
    expected, figures = plain_run
    for update, (loss, norm) in zip(stats, figures, strict=True):
        assert (update.loss, update.grad_norm) == pytest.approx((loss, norm), rel=1e-5)
    folder_names = {name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): name for name in expected}
    assert weights.keys() == folder_names.keys()
    for name, tensor in weights.items():
        if not name.endswith(KEY_BIASES):
            gap = (tensor - expected[folder_names[name]].data).abs()
            # Adam divides the few gradients near 0 by their own rounding noise; a step is 2e-4
            assert gap.mean() < 2e-7 and gap.max() < 2e-5, f"{name}: mean {gap.mean():.1e}, largest {gap.max():.1e}"
