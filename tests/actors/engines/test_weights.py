"""Real engines compute with the weights that they were sent, and refuse damaged ones."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from safetensors.torch import load_file

from actors.events import GroupFinished
from actors.pool import RolloutPool
from ovt_ray.core.config.run import ModelConfig
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import Problem, RolloutGroup
from ovt_ray.core.weights.transport import StoredVersion
from tests.actors.engine_weights import (
    Adapted,
    as_weights,
    jittered,
    transformers_logprobs,
    transformers_model,
)
from tests.actors.engines.draws import by_id, sampling

pytestmark = pytest.mark.heavy


def test_the_engine_computes_with_the_weights_it_was_sent(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path, tmp_path: Path
) -> None:
    """Every tensor moves: transformers, loaded with the same weights, gives each sampled token the same log-probability."""
    tensors = load_file(tiny_model / "model.safetensors")
    moved = jittered(tensors, "")
    pool.load_weights(StoredVersion(as_weights(1, moved)))
    groups = list(pool.generate(problems, sampling()))
    pool.load_weights(StoredVersion(as_weights(2, tensors)))
    prompts = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model)))
    model = transformers_model(tiny_model, moved, tmp_path / "moved")
    for group in groups:
        for completion in group.completions:
            expected = transformers_logprobs(model, prompts, group, completion)
            assert completion.rollout_logprobs == pytest.approx(expected, abs=1e-5)


def test_a_change_of_the_vision_tower_alone_is_seen_on_a_prompt_seen_before(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    """What was computed with the old weights, image features included, is forgotten; the old weights bring it back bit by bit."""
    tensors = load_file(tiny_model / "model.safetensors")
    original = pool.crew.weight_checksums()
    before = by_id(pool.generate(problems, sampling(num_completions=1, temperature=0.0)))
    pool.load_weights(StoredVersion(as_weights(3, jittered(tensors, "visual"))))
    changed = by_id(pool.generate(problems, sampling(num_completions=1, temperature=0.0)))
    assert all(before[problem.id] != changed[problem.id] for problem in problems)
    assert original[0] == original[1] and pool.crew.weight_checksums()[0] == pool.crew.weight_checksums()[1] != original[0]
    pool.load_weights(StoredVersion(as_weights(4, tensors)))
    assert pool.crew.weight_checksums() == original
    assert by_id(pool.generate(problems, sampling(num_completions=1, temperature=0.0))) == before


def test_adapters_alone_bring_the_engine_to_the_bits_of_a_whole_publication(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    def state() -> tuple[object, object]:
        return pool.crew.weight_checksums(), by_id(pool.generate(problems, sampling(num_completions=1, temperature=0.0)))

    first = state()
    learner = Adapted(tiny_model)
    learner.move(seed=1)
    pool.load_weights(StoredVersion(learner.publish(40)))  # brings the base
    learner.move(seed=2)
    update = learner.publish(41)
    unused = dict.fromkeys(("model.norm.weight", "model.embed_tokens.weight"), "not read")
    pool.load_weights(StoredVersion(replace(update, checksums={**update.checksums, **unused})))
    by_adapters = state()
    pool.load_weights(StoredVersion(learner.publish_whole(42)))
    assert by_adapters == state() != first
    pool.load_weights(StoredVersion(as_weights(43, load_file(tiny_model / "model.safetensors"))))
    assert state() == first


def test_weights_that_are_damaged_or_lack_a_tensor_are_refused(pool: RolloutPool, tiny_model: Path) -> None:
    """The worker then stands still until it has a version that is whole."""
    before, worker = pool.crew.weight_checksums(), pool.crew.slots[0].worker.actor
    for tensor, is_damaged, refusal in (
        ("visual.merger.ln_q.weight", True, "not what the learner published"),
        ("visual.merger.ln_q.weight", False, "leaves 1 tensors as they were.*ln_q"),
        ("layers.1.self_attn.k_proj.weight", False, "leaves 1 tensors as they were.*layers.1.self_attn.qkv_proj"),
    ):
        tensors = load_file(tiny_model / "model.safetensors")
        name = next(name for name in tensors if name.endswith(tensor))
        if not is_damaged:
            del tensors[name]
        weights = as_weights(1, tensors)
        expected = {**weights.checksums, name: "0"} if is_damaged else dict(weights.checksums)
        with pytest.raises(ray.exceptions.RayTaskError, match=refusal):
            ray.get(worker.load_weights.remote(replace(weights, checksums=expected)))
    learner = Adapted(tiny_model)
    ray.get(worker.load_weights.remote(learner.publish(2)))
    [adapters] = ray.get(list(learner.publish(3).adapters))
    query = next(adapter for adapter in adapters if adapter.name.endswith("layers.1.self_attn.q_proj.weight"))
    others = [adapter for adapter in adapters if adapter is not query]
    for damaged, refusal in (
        (others, "leaves 1 tensors as they were.*layers.1.self_attn.qkv_proj"),
        ([adapter for adapter in adapters if "mlp.down_proj" not in adapter.name], "leaves . tensors as they were.*down_proj"),
        ([*others, replace(query, name="elsewhere.weight")], "tensor elsewhere.weight was not sent"),
        ([*others, replace(query, down=replace(query.down, content=query.down.content[::-1].copy()))], "not what the learner published"),
    ):
        weights = replace(learner.publish(3), adapters=(ray.put(damaged),))
        with pytest.raises(ray.exceptions.RayTaskError, match=refusal):
            ray.get(worker.load_weights.remote(weights))
    pool.load_weights(StoredVersion(as_weights(4, load_file(tiny_model / "model.safetensors"))))
    assert pool.crew.weight_checksums() == before


def test_weights_loaded_in_the_middle_of_an_answer_sample_the_rest_of_it(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path, tmp_path: Path
) -> None:
    first = load_file(tiny_model / "model.safetensors")
    second = jittered(first, "weight")
    pool.load_weights(StoredVersion(as_weights(31, first)))
    groups: list[RolloutGroup] = []
    draw = replace(sampling(num_completions=2, seed=3), max_tokens=150)
    pool.submit(problems[:4], draw)
    time.sleep(0.3)
    pool.load_weights(StoredVersion(as_weights(32, second)))
    while not pool.is_idle:
        groups += [event.group for event in pool.poll() if isinstance(event, GroupFinished)]
    pool.load_weights(StoredVersion(as_weights(33, first)))
    assert {group.problem.id for group in groups} == {problem.id for problem in problems[:4]}
    completions = [(group, completion) for group in groups for completion in group.completions]
    mixed = [(group, completion) for group, completion in completions if len(completion.versions) == 2]
    assert mixed, [completion.versions for _, completion in completions]
    models = [transformers_model(tiny_model, tensors, tmp_path / str(number)) for number, tensors in enumerate((first, second))]
    prompts = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model)))
    for group, completion in mixed[:2]:
        assert [span.version for span in completion.versions] == [31, 32] and completion.oldest_version == 31
        at = completion.versions[0].num_tokens
        before, after = (transformers_logprobs(model, prompts, group, completion) for model in models)
        assert completion.rollout_logprobs == pytest.approx([*before[:at], *after[at:]], abs=2e-5)
        assert max(abs(one - other) for one, other in zip(before, after, strict=True)) > 0.01


def test_a_worker_that_is_asked_for_a_version_twice_at_once_loads_it_twice_in_turn(pool: RolloutPool, tiny_model: Path) -> None:
    """So does one whose collector dies in the middle of a load."""
    first = load_file(tiny_model / "model.safetensors")
    moved = as_weights(34, jittered(first, "weight"))
    worker = pool.crew.slots[0].worker.actor
    assert ray.get([worker.load_weights.remote(moved), worker.load_weights.remote(moved)]) == [34, 34]
    twice, once = pool.crew.weight_checksums()
    pool.load_weights(StoredVersion(moved))
    assert pool.crew.weight_checksums() == [twice, twice] and twice != once
    pool.load_weights(StoredVersion(as_weights(35, first)))
