"""Contract: DeepSpeed, however it is sharded, takes the very step that plain torch takes on the same samples, and can stop and go on.

The plain step below shares no code with the learner: it runs transformers' own forward pass on one sequence at a time.
"""

import hashlib
import io
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import safetensors.torch
import torch
from torch import Tensor

from learner.group import LearnerGroup, place
from learner.rank import LearnerRank
from learner.schedule import learning_rate
from learner.stage import Stage
from ovt_ray.config import GrpoConfig, LearnerConfig, ModelConfig, Optimizer
from ovt_ray.errors import LearnerError
from ovt_ray.prompts import Prompts
from ovt_ray.types import AnswerKind, Problem, TrainSample, UpdateStats, Weights

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


@pytest.fixture(scope="module", autouse=True)
def compiled_operators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where torch compiles extensions. After the tests this process has left its group of one, and its environment is as before."""
    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("extensions")
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    yield folder
    if torch.distributed.is_initialized():  # not where only tests without a rank were chosen
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


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
        logits = self.model(
            input_ids=ids, pixel_values=inputs.pixel_values, image_grid_thw=inputs.image_grid_thw, mm_token_type_ids=is_image.int()
        ).logits[0, len(inputs.prompt_ids) - 1 : -1]
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


@pytest.fixture(scope="module")
def samples(tiny_model: Path) -> list[TrainSample]:
    """Three completions of each problem, whose three policies differ, one with an image placeholder in its answer."""
    plain, generator = PlainModel(tiny_model), np.random.default_rng(0)
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


@pytest.fixture(scope="module")
def plain_run(tiny_model: Path, samples: list[TrainSample]) -> tuple[dict[str, Tensor], list[tuple[float, float]]]:
    """Weights after two plain steps, and each step's loss and gradient norm."""
    policy, reference = PlainModel(tiny_model), PlainModel(tiny_model)
    adam = torch.optim.AdamW(
        policy.model.parameters(), lr=OPTIMIZER.learning_rate, weight_decay=OPTIMIZER.weight_decay, betas=OPTIMIZER.betas
    )
    figures = [policy.step(samples, reference, adam) for _ in range(NUM_UPDATES)]
    return dict(policy.model.named_parameters()), figures


def learner_config(zero_stage: int, **changes: Any) -> LearnerConfig:
    return LearnerConfig.model_validate({"zero_stage": zero_stage, "micro_batch_tokens": 100, "deadline_s": 120, **changes})


def grpo_stage(model: Path, optimizer: Optimizer = OPTIMIZER, policy_loss: GrpoConfig = GRPO) -> Stage:
    return Stage(model_path=str(model), optimizer=optimizer, num_updates=8, policy_loss=policy_loss)


def sft_stage(model: Path, optimizer: Optimizer, num_updates: int) -> Stage:
    return Stage(model_path=str(model), optimizer=optimizer, num_updates=num_updates, policy_loss=None)


def single_rank(model: Path, config: LearnerConfig) -> LearnerRank:
    """A group of one, in this process."""
    with socket.socket() as free:
        free.bind(("", 0))
        address = ("127.0.0.1", free.getsockname()[1])
    rank = LearnerRank(config, ModelConfig(path=str(model)), seed=0)
    rank.join(0, 1, address)
    return rank


def current_weights(rank: LearnerRank) -> dict[str, Tensor]:
    return {name: tensor.clone() for bucket in rank.weights() for name, tensor in bucket.items()}


def published_weights(weights: Weights) -> dict[str, Tensor]:
    return {
        tensor.name: torch.from_numpy(tensor.content.copy()).view(getattr(torch, tensor.dtype)).view(tensor.shape)
        for bucket in ray.get(list(weights.buckets))
        for tensor in bucket
    }


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


def test_joining_a_group_compiles_nothing(tiny_model: Path, compiled_operators: Path) -> None:
    single_rank(tiny_model, learner_config(0))
    assert not list(compiled_operators.iterdir())


def test_log_probabilities_are_those_of_transformers_own_forward_pass(tiny_model: Path, samples: list[TrainSample]) -> None:
    rank, plain = single_rank(tiny_model, learner_config(0)), PlainModel(tiny_model)
    rank.begin(grpo_stage(tiny_model))
    for sample, row in zip(samples, rank.logprobs(samples), strict=True):
        with torch.no_grad():
            expected = plain.logprobs(sample, GRPO.temperature) * plain.allowed(sample)
        assert row == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("zero_stage", "changes"),
    [
        (0, {"micro_batch_tokens": 8192}),
        (0, {"micro_batch_tokens": 30}),
        (1, {}),
        (2, {}),
        (2, {"offload_optimizer": True}),
        (3, {}),
        (3, {"offload_optimizer": True, "gradient_checkpointing": True}),
    ],
)
def test_two_updates_are_those_of_plain_torch(
    tiny_model: Path, samples: list[TrainSample], plain_run: Any, zero_stage: int, changes: dict[str, Any]
) -> None:
    rank = single_rank(tiny_model, learner_config(zero_stage, **changes))
    rank.begin(grpo_stage(tiny_model))
    stats = [rank.update(samples) for _ in range(NUM_UPDATES)]
    assert_same_run(current_weights(rank), stats, plain_run)
    assert stats[0].num_loss_tokens == sum(len(sample.completion_ids) for sample in samples) - 1  # the placeholder
    assert stats[0].kl_ref == pytest.approx(0, abs=1e-9) and stats[1].kl_ref > 0


SEQUENCES_OF_GROUPS = GrpoConfig.model_validate(
    GRPO.model_dump(exclude_unset=True)
    | {"normalisation": "group", "ratio": "sequence", "rollout_correction": "geometric", "rollout_cap": 1.1, "kl_in": "reward"}
    | {"clip_low": 0.05, "clip_high": 0.05}
)
"""All that looks beyond a single token."""


def assert_same_figures(found: UpdateStats, expected: UpdateStats, norm_rel: float = 1e-6) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert found.grad_norm == pytest.approx(expected.grad_norm, rel=norm_rel)
    assert asdict(replace(found, grad_norm=0)) == pytest.approx(asdict(replace(expected, grad_norm=0)), rel=1e-6, abs=1e-6)


def test_whole_sequences_and_groups_count_the_same_in_micro_batches_of_any_size(tiny_model: Path, samples: list[TrainSample]) -> None:
    stats = []
    for micro_batch_tokens in (8192, 30):
        rank = single_rank(tiny_model, learner_config(0, micro_batch_tokens=micro_batch_tokens))
        rank.begin(grpo_stage(tiny_model, policy_loss=SEQUENCES_OF_GROUPS))
        stats.append(rank.update(samples))
    assert_same_figures(*stats)
    assert 0 < stats[0].clip_high < 1 and 0.1 < stats[0].effective_share < 0.9


def test_the_first_update_of_a_step_needs_no_proximal_log_probabilities(tiny_model: Path, samples: list[TrainSample]) -> None:
    rank = single_rank(tiny_model, learner_config(0))
    rank.begin(grpo_stage(tiny_model, OPTIMIZER.model_copy(update={"learning_rate": 0.0})))
    handed = [replace(sample, proximal_logprobs=row) for sample, row in zip(samples, rank.logprobs(samples), strict=True)]
    without = rank.update([replace(sample, proximal_logprobs=None) for sample in samples])
    assert_same_figures(rank.update(handed), without)
    assert without.clip_low == without.clip_high == 0
    assert_rollout_figures(without, samples, handed)


def assert_rollout_figures(stats: UpdateStats, samples: list[TrainSample], handed: list[TrainSample]) -> None:
    """What an update says of rollout and learner follows from their log-probabilities."""
    pairs = [(sample.rollout_logprobs or (), row.proximal_logprobs or ()) for sample, row in zip(samples, handed, strict=True)]
    rollout, policy = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    gap = (policy - rollout)[policy != 0]  # 0 is the placeholder
    weights = np.minimum(np.exp(gap), GRPO.rollout_cap)
    assert stats.kl_rollout_k1 == pytest.approx(-gap.mean(), abs=1e-6)
    assert stats.kl_rollout == pytest.approx((np.exp(gap) - 1 - gap).mean(), abs=1e-6)
    assert stats.effective_share == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / len(gap), rel=1e-6)
    ranks = [np.exp(np.sort(gap))[int(np.ceil(share * len(gap))) - 1] for share in (0.01, 0.5, 0.99)]
    assert [stats.ratio_p01, stats.ratio_p50, stats.ratio_p99] == pytest.approx(ranks, rel=1e-5)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_learning_rate_of_0_leaves_every_weight_bitwise_as_it_was(tiny_model: Path, samples: list[TrainSample], zero_stage: int) -> None:
    rank = single_rank(tiny_model, learner_config(zero_stage))
    rank.begin(grpo_stage(tiny_model, OPTIMIZER.model_copy(update={"learning_rate": 0.0})))
    stats = [rank.update(samples) for _ in range(2)]
    assert equal(current_weights(rank), safetensors.torch.load_file(tiny_model / "model.safetensors"))
    assert replace(stats[0], kl_ref=0) == replace(stats[1], kl_ref=0)


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_a_restored_run_ends_bitwise_like_an_unbroken_one(
    tiny_model: Path, samples: list[TrainSample], tmp_path: Path, zero_stage: int
) -> None:
    stage = sft_stage(tiny_model, OPTIMIZER.model_copy(update={"warmup": 0.5}), num_updates=4)
    rank = single_rank(tiny_model, learner_config(zero_stage))
    rank.begin(stage)
    assert rank.restore(tmp_path) == 0
    rank.update(samples[:5])
    rank.save(tmp_path, 1)
    rank.update(samples[5:])
    rank.save(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step-000002"]
    stats = [rank.update(samples[:8]), rank.update(samples[8:])]
    unbroken = current_weights(rank)
    (tmp_path / "incomplete").mkdir()  # what a crash in the middle of saving leaves
    rank.begin(stage)
    assert rank.restore(tmp_path) == 2
    assert [rank.update(samples[:8]), rank.update(samples[8:])] == stats
    assert equal(current_weights(rank), unbroken)


def test_sft_learns_a_handful_of_samples_by_heart_and_a_frozen_vision_tower_stays(tiny_model: Path, samples: list[TrainSample]) -> None:
    rank = single_rank(tiny_model, learner_config(0, micro_batch_tokens=8192))
    handful = [replace(sample, advantage=1.0, rollout_logprobs=None) for sample in samples[0:12:3]]
    section = Optimizer(learning_rate=3e-3, freeze_vision=True)
    rank.begin(sft_stage(tiny_model, section, num_updates=60))
    stats = [rank.update(handful) for _ in range(60)]
    assert stats[0].loss > 4 and stats[-1].loss < 0.1
    assert [update.learning_rate for update in stats] == [learning_rate(section, number, 60) for number in range(60)]
    before = safetensors.torch.load_file(tiny_model / "model.safetensors")
    changed = {name for name, tensor in current_weights(rank).items() if not torch.equal(tensor, before[name])}
    assert changed and changed == {name for name in before if not name.startswith("visual.")}


def test_a_bfloat16_policy_learns_too(tiny_model: Path, samples: list[TrainSample]) -> None:
    for zero_stage in (0, 2, 3):
        rank = single_rank(tiny_model, learner_config(zero_stage, dtype="bfloat16", micro_batch_tokens=8192))
        rank.begin(sft_stage(tiny_model, Optimizer(learning_rate=3e-3), num_updates=8))
        handful = [replace(sample, advantage=1.0) for sample in samples]
        stats = [rank.update(handful) for _ in range(8)]
        assert stats[-1].loss < stats[0].loss - 0.5 and stats[-1].grad_norm > 0


def test_a_prompt_that_the_engine_saw_otherwise_is_refused_by_name(tiny_model: Path, samples: list[TrainSample]) -> None:
    rank = single_rank(tiny_model, learner_config(0))
    rank.begin(grpo_stage(tiny_model))
    seen = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).inputs(samples[0].problem).prompt_ids
    assert len(rank.logprobs([replace(samples[0], prompt_ids=seen)])) == 1
    with pytest.raises(LearnerError, match="problem one image: the rollout engine saw a prompt"):
        rank.update([replace(samples[0], prompt_ids=seen[:-1])])


def test_an_update_without_any_loss_token_is_refused(tiny_model: Path, samples: list[TrainSample]) -> None:
    rank = single_rank(tiny_model, learner_config(0))
    rank.begin(grpo_stage(tiny_model))
    placeholder = min(Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).placeholder_ids)
    with pytest.raises(LearnerError, match="no token with a loss"):
        rank.update([replace(samples[0], completion_ids=(placeholder,), rollout_logprobs=(-1.0,), proximal_logprobs=None)])


@pytest.fixture(scope="module", params=[0, 2, 3])
def group(request: pytest.FixtureRequest, ray_session: None, tiny_model: Path) -> Iterator[LearnerGroup]:
    """Two ranks as Ray actors."""
    made = LearnerGroup(learner_config(request.param, num_ranks=2), ModelConfig(path=str(tiny_model)), seed=0)
    yield made
    made.close()


def test_two_ranks_do_what_one_does_and_stop_and_go_on(
    group: LearnerGroup, tiny_model: Path, samples: list[TrainSample], plain_run: Any, tmp_path: Path
) -> None:
    # The second rank's share has no images, the first one's has.
    group.begin(grpo_stage(tiny_model))
    before = group.logprobs(samples)
    stats = [group.update(samples) for _ in range(NUM_UPDATES)]
    group.save(tmp_path / "checkpoints", NUM_UPDATES)
    weights = group.publish()
    published = published_weights(weights)
    assert_same_run(published, stats, plain_run)

    group.export(tmp_path / "model")
    assert equal(published, safetensors.torch.load_file(tmp_path / "model" / "model.safetensors"))
    assert {path.name for path in (tmp_path / "model").iterdir()} == {path.name for path in tiny_model.iterdir()}
    assert weights.checksums == {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in published.items()}

    single = single_rank(tiny_model, learner_config(0))
    single.begin(grpo_stage(tiny_model))
    assert np.allclose(np.concatenate(before), np.concatenate(single.logprobs(samples)), atol=1e-5)

    group.begin(grpo_stage(tiny_model, policy_loss=SEQUENCES_OF_GROUPS))
    single.begin(grpo_stage(tiny_model, policy_loss=SEQUENCES_OF_GROUPS))
    # ZeRO 2 and 3 sum the norm in float32, shard by shard
    assert_same_figures(group.update(samples), single.update(samples), norm_rel=1e-5)

    group.begin(grpo_stage(tiny_model))
    assert group.restore(tmp_path / "checkpoints") == NUM_UPDATES
    alone = group.update(samples[:1])  # a rank without samples
    after = group.publish()
    assert after.version == weights.version + 1 and not equal(published_weights(after), published)
    group.begin(grpo_stage(tiny_model))
    assert group.restore(tmp_path / "checkpoints") == NUM_UPDATES
    assert equal(published_weights(group.publish()), published)
    assert group.update(samples[:1]) == alone
    assert equal(published_weights(group.publish()), published_weights(after))


def test_a_killed_rank_ends_the_call_with_an_error(group: LearnerGroup, tiny_model: Path, samples: list[TrainSample]) -> None:
    group.begin(grpo_stage(tiny_model))
    pids = ray.get([actor.__ray_call__.remote(lambda self: os.getpid()) for actor in group._actors])
    os.kill(pids[1], signal.SIGKILL)
    began = time.monotonic()
    with pytest.raises(LearnerError, match="a learner rank"):
        group.update(samples)
    assert time.monotonic() - began < 30
    with pytest.raises(LearnerError, match="the learner group is closed"):
        group.publish()


def test_a_group_that_does_not_fit_says_what_the_cluster_has(ray_session: None) -> None:
    with pytest.raises(LearnerError, match=r"no room for 99 times \{'CPU': 1\} within 1 s; the cluster has CPU 4"):
        place(learner_config(0, num_ranks=99), deadline_s=1)
