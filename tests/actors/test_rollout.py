"""The rollout service on real vLLM engines: reproducible, parity-safe, always at the current weights, and it heals."""

import asyncio
import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import psutil
import pytest
import ray
from safetensors.torch import load_file

from actors.events import GroupFinished
from actors.placed import EngineLauncher
from actors.pool import RolloutPool
from actors.worker import RolloutWorker, completion_text
from learner.broadcast import BroadcastTransport
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.errors import RolloutError
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import AnswerKind, Problem, RolloutGroup, Sampling
from ovt_ray.core.weights.transport import StoredVersion
from ovt_ray.core.weights.version import Weights
from ovt_ray.world import world_problems
from tests.actors.engine_weights import (
    Adapted,
    ProcessSender,
    as_weights,
    ended_within,
    jittered,
    transformers_logprobs,
    transformers_model,
)
from tests.processes import engines_of

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker of Ray cannot import a test

CONFIG = RolloutConfig(num_workers=1, max_model_len=256, kv_cache_gib=0.1)
SPLIT = RolloutConfig(num_workers=1, cpus_per_worker=2, tensor_parallel=2, max_model_len=256, kv_cache_gib=0.1)
PAIR = RolloutConfig(num_workers=2, max_model_len=256, kv_cache_gib=0.1)


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    return world_problems("train", 12, 0, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def pool(ray_session: None, tiny_model: Path) -> Iterator[RolloutPool]:
    pool = RolloutPool(PAIR, EngineLauncher(ModelConfig(path=str(tiny_model)), str(tiny_model)))
    yield pool
    pool.close()


def sampling(num_completions: int = 4, seed: int = 0, temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(num_completions=num_completions, temperature=temperature, top_p=top_p, max_tokens=24, seed=seed)


def by_id(groups: Iterator[RolloutGroup]) -> dict[str, list[tuple[tuple[int, ...], tuple[float, ...]]]]:
    return {group.problem.id: [(c.token_ids, c.rollout_logprobs) for c in group.completions] for group in groups}


def knows(worker: RolloutWorker, name: str) -> bool:
    """Whether vLLM's client has processed the image."""
    cache = worker.engine.renderer.mm_processor_cache
    return cache is not None and cache.is_cached_item(name)


def forget(worker: RolloutWorker) -> None:
    """Let the engine, but not its client, forget all pixels."""
    loop = cast("asyncio.Task[None]", worker.engine.output_handler).get_loop()
    asyncio.run_coroutine_threadsafe(worker.engine.engine_core.reset_mm_cache_async(), loop).result(10)


def record_what_is_sent(worker: RolloutWorker) -> None:
    """Count the images that go to the engine, and those whose pixels go along, in `worker.sent`."""
    send, sent = worker.engine.engine_core._send_input, [0, 0]

    def recorded(kind: object, request: object, *others: object) -> object:
        features = getattr(request, "mm_features", None) or []
        sent[0] += len(features)
        sent[1] += sum(feature.data is not None for feature in features)
        return send(kind, request, *others)

    worker.engine.engine_core._send_input = recorded
    worker.sent = sent


def taken(worker: RolloutWorker) -> list[int]:
    """Return what was counted since the last call."""
    counted = list(worker.sent)
    worker.sent[:] = [0, 0]
    return counted


def add_as_vllm_does(worker: RolloutWorker) -> bool:
    """Leave our way of adding completions out, or back in; return whether it was in."""
    client, pixels = worker.engine.engine_core, worker._pixels
    was_in = client.add_request_async == pixels.add
    client.add_request_async = pixels._add if was_in else pixels.add
    return was_in


def test_every_problem_gets_its_group_once_with_as_many_completions_as_asked(pool: RolloutPool, problems: list[Problem]) -> None:
    groups = list(pool.generate(problems, sampling()))
    assert sorted(group.problem.id for group in groups) == sorted(problem.id for problem in problems)
    assert all(len(group.completions) == 4 for group in groups)
    assert len({completion.token_ids for completion in groups[0].completions}) > 1


def test_a_seed_gives_the_same_tokens_whatever_else_is_running(pool: RolloutPool, problems: list[Problem]) -> None:
    together = by_id(pool.generate(problems, sampling(seed=3)))
    alone = by_id(pool.generate(problems[5:6], sampling(seed=3)))
    assert together[problems[5].id] == alone[problems[5].id]
    assert together != by_id(pool.generate(problems, sampling(seed=4)))


def test_a_seed_gives_the_same_tokens_whatever_the_number_of_workers(pool: RolloutPool, problems: list[Problem]) -> None:
    slots, draw = pool.crew.slots.values(), sampling(seed=5)
    by_two = by_id(pool.generate(problems, draw))
    for alone in slots:
        for slot in slots:
            slot.is_behind = slot is not alone
        assert by_id(pool.generate(problems, draw)) == by_two
    for slot in slots:
        slot.is_behind = False


def test_a_completion_s_seed_follows_from_its_place_in_the_group(pool: RolloutPool, problems: list[Problem]) -> None:
    four = by_id(pool.generate(problems[:3], sampling(num_completions=4, seed=3)))
    two = by_id(pool.generate(problems[:3], sampling(num_completions=2, seed=3)))
    assert two == {name: completions[:2] for name, completions in four.items()}


def test_log_probabilities_are_those_of_the_distribution_that_top_p_leaves(pool: RolloutPool, problems: list[Problem]) -> None:
    """So little probability leaves only the likeliest token, which is then certain."""
    greedy = by_id(pool.generate(problems, sampling(num_completions=1, temperature=0.0)))
    narrow = by_id(pool.generate(problems, sampling(num_completions=1, top_p=1e-6)))
    for name, [(tokens, logprobs)] in narrow.items():
        assert tokens == greedy[name][0][0]
        assert logprobs == (0.0,) * len(tokens)


def test_only_the_likeliest_tokens_are_drawn_and_none_of_a_forbidden_word(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    greedy = by_id(pool.generate(problems, sampling(num_completions=1, temperature=0.0)))
    one = by_id(pool.generate(problems, replace(sampling(num_completions=1), top_k=1)))
    assert {name: tokens for name, [(tokens, _)] in one.items()} == {name: tokens for name, [(tokens, _)] in greedy.items()}

    def drawn(bad_words: tuple[str, ...] = ()) -> set[int]:
        groups = pool.generate(problems, replace(sampling(num_completions=1), bad_words=bad_words))
        return {token for group in groups for token in group.completions[0].token_ids}

    tokenizer = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).tokenizer
    words = {tokenizer.decode([token]): token for token in drawn()}
    forbidden = {word: token for word, token in words.items() if tokenizer(word)["input_ids"] == [token] and word.isalpha()}
    assert forbidden and not drawn(tuple(forbidden)) & set(forbidden.values())


def test_text_leaves_out_special_tokens_and_a_character_that_was_cut(tiny_model: Path) -> None:
    tokenizer = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).tokenizer
    prompt, euro = tokenizer("Look")["input_ids"], tokenizer("\u20ac")["input_ids"]  # the euro sign is three bytes
    letter, end, image = tokenizer("a")["input_ids"], [tokenizer.eos_token_id], tokenizer.convert_tokens_to_ids(["<|image_pad|>"])
    assert (len(euro), len(letter)) == (3, 1)

    def text(ids: list[int], has_ended: bool = False) -> str:
        return completion_text(tokenizer, prompt, ids, has_ended=has_ended)

    assert text(letter + euro + end, has_ended=True) == "a\u20ac"
    assert text(letter + euro[:2]) == "a", "the length limit cut it"
    assert text(euro[:2] + letter) == "\ufffda", "the model went on after half a character"
    assert text(letter + image + letter) == "aa"
    assert text(euro[1:]) == "" and text(end, has_ended=True) == "" and text([]) == ""


def test_image_placeholders_are_never_sampled(pool: RolloutPool, problems: list[Problem], tiny_model: Path) -> None:
    forbidden = set(Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).placeholder_ids)
    assert len(forbidden) == 4
    hot = by_id(pool.generate(problems, sampling(num_completions=16, temperature=2.0)))
    seen = {token for completions in hot.values() for tokens, _ in completions for token in tokens}
    assert len(seen) > 200 and not seen & forbidden


def test_a_prompt_that_is_too_long_is_refused_by_name(pool: RolloutPool) -> None:
    long = Problem(id="long-one", question="word " * 500, images=(), answer="1", kind=AnswerKind.NUMBER)
    with pytest.raises(RolloutError, match="long-one"):
        list(pool.generate([long], sampling()))


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


def test_pixels_outlive_the_weights_and_are_sent_again_to_an_engine_that_lost_them(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    """What the processor makes of an image does not depend on weights; that an engine no longer has it costs a second try, no error."""
    shown = [hashlib.sha256(Path(str(source)).read_bytes()).hexdigest() for problem in problems for source in problem.images]
    actors = [slot.worker.actor for slot in pool.crew.slots.values()]
    before = by_id(pool.generate(problems, sampling()))
    pool.load_weights(StoredVersion(as_weights(45, load_file(tiny_model / "model.safetensors"))))
    known = [
        set(ray.get(actor.__ray_call__.remote(lambda worker, names: [name for name in names if knows(worker, name)], shown)))
        for actor in actors
    ]
    assert shown and set(shown) == set().union(*known)
    ray.get([actor.__ray_call__.remote(forget) for actor in actors])
    assert by_id(pool.generate(problems, sampling())) == before


def test_the_pixels_of_an_image_go_to_an_engine_once_whatever_the_size_of_the_group(pool: RolloutPool, tmp_path: Path) -> None:
    actors = [slot.worker.actor for slot in pool.crew.slots.values()]
    ray.get([actor.__ray_call__.remote(record_what_is_sent) for actor in actors])

    def sent(problems: list[Problem]) -> tuple[int, int]:
        list(pool.generate(problems, sampling(num_completions=5)))
        of_actors = ray.get([actor.__ray_call__.remote(taken) for actor in actors])
        return sum(images for images, _ in of_actors), sum(with_pixels for _, with_pixels in of_actors)

    ours, vllms = world_problems("train", 4, 99, tmp_path / "ours"), world_problems("train", 4, 98, tmp_path / "vllms")
    num_images = sum(len(problem.images) for problem in ours)
    assert num_images and sent(ours) == (5 * num_images, num_images)
    assert all(ray.get([actor.__ray_call__.remote(lambda worker: not worker._pixels._shown) for actor in actors]))
    once = ray.get([actor.__ray_call__.remote(add_as_vllm_does) for actor in actors])
    num_images = sum(len(problem.images) for problem in vllms)
    assert sent(vllms) == (5 * num_images, 5 * num_images), "vLLM sends them once by itself: actors/pixels.py can go"
    ray.get([actor.__ray_call__.remote(add_as_vllm_does) for actor in actors])
    assert once == [True, True]


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


def test_weights_that_are_damaged_or_lack_a_tensor_are_refused(ray_session: None, tiny_model: Path) -> None:
    worker = ray.remote(runtime_env={"env_vars": {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}})(
        RolloutWorker
    ).remote(str(tiny_model), ModelConfig(path=str(tiny_model)), CONFIG)
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
    ray.get(worker.close.remote())
    ray.kill(worker)


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


def test_a_killed_engine_is_replaced_with_its_worker(pool: RolloutPool, problems: list[Problem]) -> None:
    undisturbed = by_id(pool.generate(problems, sampling(num_completions=16, seed=8)))
    worker = psutil.Process(pool.crew.process_ids()[1])
    [engine] = engines_of(worker)
    killer = threading.Timer(0.1, engine.kill)
    killer.start()
    disturbed = by_id(pool.generate(problems, sampling(num_completions=16, seed=8)))
    killer.join()
    assert disturbed == undisturbed
    assert worker.pid not in pool.crew.process_ids()


def test_an_engine_that_fails_in_an_update_is_replaced_and_all_serve_the_version(pool: RolloutPool, tiny_model: Path) -> None:
    workers = pool.crew.process_ids()
    [engine] = engines_of(psutil.Process(workers[0]))
    before = pool.crew.weight_checksums()
    engine.suspend()  # it takes the call and never answers
    killer = threading.Timer(1.0, engine.kill)
    killer.start()
    moved = jittered(load_file(tiny_model / "model.safetensors"), "")
    pool.load_weights(StoredVersion(as_weights(5, moved)))
    killer.join()
    assert workers[0] not in pool.crew.process_ids() and workers[1] in pool.crew.process_ids()
    assert pool.crew.weight_checksums()[0] == pool.crew.weight_checksums()[1] != before[0]
    pool.load_weights(StoredVersion(as_weights(6, load_file(tiny_model / "model.safetensors"))))
    assert pool.crew.weight_checksums() == before


def test_a_killed_worker_is_replaced_at_the_current_weights_and_nothing_is_lost(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    learner = Adapted(tiny_model)
    for version in (51, 52):
        learner.move(seed=version)
        pool.load_weights(StoredVersion(learner.publish(version)))  # the successor needs the base and the adapters
    before = pool.crew.weight_checksums()
    undisturbed = by_id(pool.generate(problems, sampling(num_completions=16, seed=9)))
    victim = pool.crew.process_ids()[0]
    engine = engines_of(psutil.Process(victim))
    assert engine, "the engine runs in a process of its own"
    killer = threading.Timer(0.1, os.kill, (victim, signal.SIGKILL))
    killer.start()
    disturbed = by_id(pool.generate(problems, sampling(num_completions=16, seed=9)))
    killer.join()
    assert disturbed == undisturbed
    assert victim not in pool.crew.process_ids()
    assert pool.crew.weight_checksums() == before
    assert ended_within(5, engine), "the killed worker's engine lives on"


@pytest.mark.long
def test_an_engine_split_over_two_processes_computes_what_a_whole_one_does_and_dies_whole(
    pool: RolloutPool, problems: list[Problem], tiny_model: Path
) -> None:
    split = RolloutPool(SPLIT, EngineLauncher(ModelConfig(path=str(tiny_model)), str(tiny_model)))
    [pid] = split.crew.process_ids()
    learner = Adapted(tiny_model)
    learner.move(seed=7)
    first, moved = load_file(tiny_model / "model.safetensors"), jittered(load_file(tiny_model / "model.safetensors"), "")
    versions: list[Weights] = [as_weights(60, first), as_weights(61, moved), learner.publish(62)]
    learner.move(seed=8)
    versions += [learner.publish(63), as_weights(64, moved), as_weights(65, first)]
    half_a_layer = "model.layers.1.self_attn.k_proj.weight"
    breaks, goes_through = BroadcastTransport(ProcessSender(moved, stops_after=half_a_layer)), BroadcastTransport(ProcessSender(first))
    broadcasts = {64: breaks.publish(64, is_checked=True), 65: goes_through.publish(65, is_checked=True)}
    seen = []
    for weights in versions:
        pool.load_weights(StoredVersion(weights))
        split.load_weights(broadcasts.get(weights.version, StoredVersion(weights)))
        whole, parts = (by_id(one.generate(problems, sampling(num_completions=1, temperature=0.0))) for one in (pool, split))
        for name, [(tokens, logprobs)] in whole.items():
            assert parts[name][0][0] == tokens
            assert parts[name][0][1] == pytest.approx(logprobs, abs=2e-5)
        seen.append(whole)
    assert seen[0] == seen[-1] and all(before != after for before, after in pairwise(seen))

    assert split.crew.process_ids() == [pid]  # nothing was refused
    assert goes_through.meeting is not None and breaks.meeting is None, "the last version came through a group"
    worker = psutil.Process(pid)
    processes = worker.children(recursive=True)
    assert len(engines_of(worker)) == 3, "the engine's own process, and one for each part"
    shared = {place.path for process in processes for place in process.memory_maps() if place.path.startswith("/dev/shm/")}
    assert shared and not any(os.path.exists(path) for path in shared), "no name that could outlive its processes"
    worker.kill()
    assert ended_within(5, processes)
    split.close()
