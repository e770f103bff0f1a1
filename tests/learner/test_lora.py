"""Contract: with LoRA the learner takes the step that plain torch takes through peft's own wrapper, and nobody else sees an adapter."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import ray
import safetensors.torch
import torch
from torch import Tensor

from learner.adapters import without_adapters
from learner.group import LearnerGroup
from learner.rank import LearnerRank
from ovt_ray.core.config.run import LearnerConfig, LoraConfig, ModelConfig
from ovt_ray.core.config.stages import Optimizer
from ovt_ray.core.types import TrainSample, UpdateStats
from tests.learner.plain_torch import (
    GRPO,
    OPTIMIZER,
    PlainModel,
    current_weights,
    equal,
    grpo_stage,
    learner_config,
    publish,
    published_weights,
    sft_stage,
    single_rank,
)

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("compiled_operators")]

LORA = LoraConfig(rank=4, alpha=12)
FAST = OPTIMIZER.model_copy(update={"learning_rate": 1e-2})
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def lora_config(zero_stage: int, **changes: Any) -> LearnerConfig:
    return learner_config(zero_stage, lora=LORA.model_dump(), **changes)


def begun(model: Path, zero_stage: int, optimizer: Optimizer = FAST, **changes: Any) -> LearnerRank:
    rank = single_rank(model, lora_config(zero_stage, **changes))
    rank.begin(grpo_stage(model, optimizer))
    return rank


def file_weights(folder: Path) -> dict[str, Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def is_adapted(name: str) -> bool:
    """Whether the weight, by its name in a folder, is one of a linear layer of the language model."""
    return name.startswith("model.layers.") and name.endswith(".weight") and name.split(".")[-2] in LINEAR


@pytest.fixture(scope="module")
def peft_run(tiny_model: Path, samples: list[TrainSample]) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    """Merged weights after two plain steps of peft's own model from the learner's first adapters, and each step's loss and norm."""
    policy, reference = PlainModel(tiny_model), PlainModel(tiny_model)
    layers = rf"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(LINEAR)})"
    policy.model = peft.get_peft_model(policy.model, peft.LoraConfig(r=4, lora_alpha=12, target_modules=layers))
    wrapped = dict(policy.model.named_parameters())
    for name, parameter in begun(tiny_model, 0).policy.named_parameters():
        if "lora_" in name:
            wrapped[f"base_model.model.{name}"].data.copy_(parameter.detach())
    trained = [parameter for parameter in policy.model.parameters() if parameter.requires_grad]
    adam = torch.optim.AdamW(trained, lr=FAST.learning_rate, weight_decay=FAST.weight_decay, betas=FAST.betas)
    figures = [policy.step(samples, reference, adam) for _ in range(2)]
    merged = dict(policy.model.merge_and_unload().named_parameters())
    return {name.replace("model.language_model.", "model."): tensor.detach() for name, tensor in merged.items()}, figures


def assert_same_adapters(weights: dict[str, Tensor], stats: list[UpdateStats], peft_run: Any, first: dict[str, Tensor]) -> None:
    expected, figures = peft_run
    for update, (loss, norm) in zip(stats, figures, strict=True):
        assert (update.loss, update.grad_norm) == pytest.approx((loss, norm), rel=1e-4)
    assert weights.keys() == first.keys()
    for name, tensor in weights.items():
        if is_adapted(name):
            moved, gap = (expected[name] - first[name]).abs(), (expected[name] - tensor).abs()
            assert gap.mean() < 1e-3 * moved.mean() and moved.mean() > 1e-4, f"{name}: {gap.mean():.1e} of {moved.mean():.1e}"
        else:
            assert torch.equal(tensor, first[name]), name


@pytest.mark.parametrize(("zero_stage", "changes"), [(0, {}), (2, {}), (3, {"gradient_checkpointing": True})])
def test_two_updates_are_those_of_a_plain_peft_loop_and_only_adapted_layers_move(
    tiny_model: Path,
    samples: list[TrainSample],
    peft_run: Any,
    zero_stage: int,
    changes: dict[str, Any],
) -> None:
    rank = begun(tiny_model, zero_stage, **changes)
    stats = [rank.update(samples) for _ in range(2)]
    assert stats[0].kl_ref == pytest.approx(0, abs=1e-9) and stats[1].kl_ref > 1e-4
    assert_same_adapters(current_weights(rank), stats, peft_run, file_weights(tiny_model))


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_without_adapters_it_is_the_first_model_and_with_them_merged_the_exported_one(
    tiny_model: Path,
    samples: list[TrainSample],
    tmp_path: Path,
    zero_stage: int,
) -> None:
    rank = begun(tiny_model, zero_stage)
    before = rank.logprobs(samples)
    rank.update(samples)
    after = rank.logprobs(samples)
    with without_adapters(rank.policy):
        assert rank.logprobs(samples) == before
    assert np.abs(np.concatenate(after) - np.concatenate(before)).max() > 1e-2

    rank.export(tmp_path / "model")
    assert rank.logprobs(samples) == after
    plain = PlainModel(tmp_path / "model")
    for sample, row in zip(samples, after, strict=True):
        with torch.no_grad():
            expected = plain.logprobs(sample, GRPO.temperature) * plain.allowed(sample)
        assert row == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_in_bfloat16_the_sum_of_weight_and_adapter_is_rounded_once(
    tiny_model: Path,
    samples: list[TrainSample],
    zero_stage: int,
) -> None:
    import deepspeed

    rank = begun(tiny_model, zero_stage, dtype="bfloat16")
    for _ in range(2):
        rank.update(samples)
    layer = rank.policy.model.language_model.layers[1].mlp.up_proj
    factors = [layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    with deepspeed.zero.GatheredParameters(factors if zero_stage == 3 else []):
        base, down, up = (factor.detach().double() for factor in factors)
    name = "model.layers.1.mlp.up_proj.weight"
    published = current_weights(rank)[name]
    assert published.dtype == torch.bfloat16
    assert not torch.equal(published, file_weights(tiny_model)[name].bfloat16())
    assert torch.equal(published, (base + LORA.alpha / LORA.rank * up @ down).float().bfloat16())


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_restored_run_ends_bitwise_like_an_unbroken_one(
    tiny_model: Path,
    samples: list[TrainSample],
    tmp_path: Path,
    zero_stage: int,
) -> None:
    stage = sft_stage(tiny_model, FAST, num_updates=4)
    rank = single_rank(tiny_model, lora_config(zero_stage))
    rank.begin(stage)
    rank.update(samples)
    rank.save(tmp_path, 1)
    saved = current_weights(rank)
    stats = rank.update(samples[:8])
    unbroken = current_weights(rank)
    torch.rand(7)  # the first adapters depend on the seed alone, not on what was drawn before
    rank.begin(stage)
    assert rank.restore(tmp_path) == 1
    assert equal(current_weights(rank), saved)
    assert rank.update(samples[:8]) == stats
    assert equal(current_weights(rank), unbroken)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.pt"))
    assert size < (tiny_model / "model.safetensors").stat().st_size / 2  # frozen weights are not in it


def test_adapters_begin_as_nothing_and_sft_trains_them_in_every_part(
    tiny_model: Path,
    samples: list[TrainSample],
) -> None:
    lora = LORA.model_dump() | {"parts": ("vision_tower", "projector", "language_model")}
    rank = single_rank(tiny_model, learner_config(0, lora=lora))
    rank.begin(sft_stage(tiny_model, FAST, num_updates=20))
    first = file_weights(tiny_model)
    assert equal(current_weights(rank), first)
    handful = [replace(sample, advantage=1.0, rollout_logprobs=None) for sample in samples[0:12:3]]
    stats = [rank.update(handful) for _ in range(10)]
    assert stats[-1].loss < stats[0].loss - 1
    moved = {name for name, tensor in current_weights(rank).items() if not torch.equal(tensor, first[name])}
    vision = {name for name in first if name.startswith("visual.") and first[name].ndim == 2}  # its patch embedding is a convolution
    assert moved == vision | {name for name in first if is_adapted(name)}


def test_two_ranks_that_share_the_weights_publish_their_base_once_and_merge_as_one_does(
    ray_session: None,
    tiny_model: Path,
    samples: list[TrainSample],
    peft_run: Any,
    tmp_path: Path,
) -> None:
    first = file_weights(tiny_model)
    group = LearnerGroup(lora_config(3, num_ranks=2), ModelConfig(path=str(tiny_model)), seed=0)
    group.begin(grpo_stage(tiny_model, FAST))
    begun = publish(group)
    assert equal(published_weights(begun), first)
    stats = [group.update(samples) for _ in range(2)]
    weights = publish(group)
    published = published_weights(weights)
    group.export(tmp_path / "model")
    assert equal(published, file_weights(tmp_path / "model"))  # to the bit
    assert_same_adapters(published, stats, peft_run, first)

    assert weights.buckets == begun.buckets and weights.version == begun.version + 1
    adapters = [adapter for bucket in ray.get(list(weights.adapters)) for adapter in bucket]
    assert {adapter.name for adapter in adapters} == {name for name in first if is_adapted(name)}
    factors = [factor for adapter in adapters for factor in (adapter.up, adapter.down)]
    digests = {tensor.name: hashlib.sha256(tensor.content).hexdigest() for tensor in factors}
    assert begun.checksums.keys() == first.keys() | digests.keys() and not weights.checksums
    group._publisher.version = 10
    checked = publish(group)
    assert checked.checksums == {name: begun.checksums[name] for name in first} | digests

    group.begin(grpo_stage(tmp_path / "model", FAST))  # another first model is another base
    assert equal(published_weights(publish(group)), published)
    group.close()


def test_zero_3_releases_every_layer_in_the_backward_pass_after_the_reference_used_it_too(
    tiny_model: Path,
    samples: list[TrainSample],
) -> None:
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    rank = begun(tiny_model, 3, micro_batch_tokens=8192)
    sharded = [parameter for parameter in rank.policy.parameters() if not parameter.ds_persist]
    last = rank.policy.model.language_model.layers[0].self_attn.q_proj.lora_B["default"].weight  # in a backward pass
    num_held: list[int] = []
    last.register_hook(lambda _: num_held.append(sum(parameter.ds_status == ZeroParamStatus.AVAILABLE for parameter in sharded)))
    rank.update(samples)
    assert num_held == [0] and len(sharded) > 20


def test_gradient_checkpointing_computes_every_layer_again(
    tiny_model: Path,
    samples: list[TrainSample],
) -> None:
    passes = {}
    for gradient_checkpointing in (False, True):
        rank = begun(tiny_model, 0, gradient_checkpointing=gradient_checkpointing, micro_batch_tokens=8192)
        passes[gradient_checkpointing] = counted = []
        rank.policy.model.language_model.layers[2].mlp.register_forward_pre_hook(lambda *_: counted.append(1))  # noqa: B023
        rank.update(samples)
    # one micro-batch: reference, policy, and the policy again, which stops before its last layer ends
    assert (len(passes[False]), len(passes[True])) == (2, 3)
