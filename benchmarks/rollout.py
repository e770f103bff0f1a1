"""Measures the rollout pool's overhead over a bare vLLM engine, and the gain from completions that share a prompt.

    python -m benchmarks.rollout [THREADS]

There are two models: a tiny Qwen2.5-VL, and one of 200 M parameters. For each, the pool (one worker) and a bare `vllm.LLM.generate` take
turns. They answer the same fresh problems with several completions each. Both engines have the same arguments, environment and number of
threads (default 2), and draw the same tokens. The bare engine gets tokenized prompts and decoded images, and does not turn tokens into
text. The pool also generates the same number of completions for different problems, one each (`separate`). Then the pool with the tiny
model receives large images, the same weights as a new version, and the images again.

An untrained model nearly always reaches the token limit, so lengths do not depend on luck. Ratios are medians over the rounds after the
first, each within its round. The table also shows the processor time (`cpu`) of all processes that took part. It is more reliable on a
machine that others use. The last line is a JSON object.
"""

import json
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import ray
import torch
from PIL import Image
from ray.actor import ActorHandle
from safetensors.torch import load_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig

from actors.placed import EngineLauncher, engine_environment
from actors.pool import RolloutPool
from benchmarks.bare_vllm import BareEngine, EngineTiming
from learner.weights import on_the_wire
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.types import AnswerKind, Problem, Sampling
from ovt_ray.core.weights.transport import StoredVersion
from ovt_ray.core.weights.version import Weights
from ovt_ray.world import build_tiny_model, world_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model, and the amount of its work."""

    name: str
    width: int
    num_layers: int
    num_problems: int
    num_completions: int
    max_tokens: int
    num_rounds: int
    """Number of rounds that count, after a warm-up round."""


SHAPES = (
    Shape(name="tiny", width=128, num_layers=4, num_problems=32, num_completions=8, max_tokens=48, num_rounds=8),
    Shape(name="200m", width=1024, num_layers=13, num_problems=4, num_completions=4, max_tokens=16, num_rounds=3),
)
WAYS = ("bare", "pool", "separate")
NUM_IMAGES = 16
IMAGE_SIDE = 1024
"""Side in pixels. The model sees images scaled down to `ModelConfig.max_pixels`."""
NUM_IMAGE_ROUNDS = 5
"""Number of rounds with the warm-up round."""


def main(arguments: Sequence[str]) -> None:
    """Print a table for each shape, and the figures as JSON."""
    num_threads = int(arguments[0]) if arguments else 2
    ray.init("local", num_cpus=2 * num_threads, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    figures: dict[str, float] = {"threads": num_threads}
    for shape in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            write_model(Path(folder) / "model", shape)
            count = shape.num_problems * (1 + shape.num_completions) * (1 + shape.num_rounds)
            problems = world_problems("train", count, 0, Path(folder) / "images")
            figures |= report(shape, take_turns(shape, str(Path(folder) / "model"), problems, num_threads))
    with tempfile.TemporaryDirectory() as folder:
        figures |= show_images(Path(folder), num_threads)
    ray.shutdown()
    print(json.dumps(figures))


def write_model(folder: Path, shape: Shape) -> None:
    """Write a Qwen2.5-VL of the embedded model's kind, of the shape's width and depth."""
    build_tiny_model(folder, seed=0)
    config = Qwen2_5_VLConfig.from_pretrained(folder)
    if shape.width == config.text_config.hidden_size:
        return
    text = {"hidden_size": shape.width, "intermediate_size": 4 * shape.width, "num_hidden_layers": shape.num_layers}
    heads = {"num_attention_heads": shape.width // 32, "num_key_value_heads": shape.width // 128}
    config.text_config = Qwen2_5_VLTextConfig(**(config.text_config.to_dict() | text | heads | {"layer_types": None}))
    config.vision_config = Qwen2_5_VLVisionConfig(**(config.vision_config.to_dict() | {"out_hidden_size": shape.width}))
    torch.manual_seed(0)
    Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)


def take_turns(shape: Shape, model: str, problems: Sequence[Problem], num_threads: int) -> dict[str, list[EngineTiming]]:
    """Return the timings of each way, round by round, without the first round."""
    config = RolloutConfig(cpus_per_worker=num_threads, max_model_len=256)
    environment = engine_environment(num_threads)
    bare = ray.remote(num_cpus=num_threads, runtime_env={"env_vars": environment})(BareEngine).remote(model, config)
    pool = RolloutPool(config, EngineLauncher(ModelConfig(path=model), model))
    pool.wait_until_ready()
    timings: dict[str, list[EngineTiming]] = {way: [] for way in WAYS}
    left = list(problems)
    for number in range(shape.num_rounds + 1):
        several = Sampling(num_completions=shape.num_completions, temperature=1.0, max_tokens=shape.max_tokens, seed=number)
        one = Sampling(num_completions=1, temperature=1.0, max_tokens=shape.max_tokens, seed=number)
        together = [left.pop() for _ in range(shape.num_problems)]
        separate = [left.pop() for _ in range(shape.num_problems * shape.num_completions)]
        for way in WAYS if number % 2 else reversed(WAYS):
            match way:
                case "bare":
                    timings[way].append(ray.get(bare.generate.remote(together, several)))
                case "pool":
                    timings[way].append(time_pool(pool, together, several))
                case "separate":
                    timings[way].append(time_pool(pool, separate, one))
        if timings["bare"][-1].num_tokens != timings["pool"][-1].num_tokens:
            raise RuntimeError(f"{shape.name}: pool and bare engine gave different completions")
        rates = ", ".join(f"{way} {timings[way][-1].tokens_per_s:,.0f}" for way in WAYS)
        print(f"[{shape.name}] round {number}: {rates} tokens/s, load {os.getloadavg()[0]:.1f}", flush=True)
    close(bare, pool)
    return {way: rounds[1:] for way, rounds in timings.items()}


def show_images(folder: Path, num_threads: int) -> dict[str, float]:
    """Print and return the time for a new image, and for an image that was seen before the weights changed.

    New weights make an engine forget everything except the pixels. Each image gets eight completions of one token.
    """
    build_tiny_model(folder / "model", seed=0)
    tensors = on_the_wire(load_file(folder / "model" / "model.safetensors"))
    buckets = (ray.put(tensors),)
    config = RolloutConfig(cpus_per_worker=num_threads, max_model_len=2048)
    model = str(folder / "model")
    pool = RolloutPool(config, EngineLauncher(ModelConfig(path=model), model))
    pool.wait_until_ready()
    sampling = Sampling(num_completions=8, temperature=1.0, max_tokens=1, seed=0)
    timings: dict[str, list[EngineTiming]] = {"first": [], "again": []}
    for number in range(NUM_IMAGE_ROUNDS):
        problems = [noise_problem(folder, f"{number}.{index}") for index in range(NUM_IMAGES)]
        for turn, rounds in enumerate(timings.values()):
            pool.load_weights(StoredVersion(Weights(version=1 + 2 * number + turn, buckets=buckets, checksums={})))
            rounds.append(time_pool(pool, problems, sampling))
    pool.close()
    figures = {}
    print(f"images: {NUM_IMAGES} of {IMAGE_SIDE} x {IMAGE_SIDE} pixels a round, ms an image")
    for name, rounds in timings.items():
        figures[f"image_{name}_ms"] = round(median(1e3 * timing.seconds / NUM_IMAGES for timing in rounds[1:]), 1)
        figures[f"image_{name}_cpu_ms"] = round(median(1e3 * timing.cpu_seconds / NUM_IMAGES for timing in rounds[1:]), 1)
        print(f"{name:<10}{figures[f'image_{name}_ms']:>9.1f}, processor {figures[f'image_{name}_cpu_ms']:.1f}")
    return figures


def noise_problem(folder: Path, name: str) -> Problem:
    """Return a question about an image of noise, written to the folder."""
    pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), dtype=np.uint8)
    path = folder / f"{name}.png"
    Image.fromarray(pixels).save(path)
    return Problem(id=name, question="How many?", images=(str(path),), answer="1", kind=AnswerKind.NUMBER)


def close(bare: ActorHandle, pool: RolloutPool) -> None:
    """End both engines."""
    pool.close()
    ray.kill(bare)


def time_pool(pool: RolloutPool, problems: Sequence[Problem], sampling: Sampling) -> EngineTiming:
    """Return the pool's timing over the processes of the driver, the worker and the engine."""
    processes = [psutil.Process(), *(member for pid in pool.crew.process_ids() for member in _family(pid))]
    cpu_began, began = sum(map(_cpu_seconds, processes)), time.monotonic()
    groups = list(pool.generate(problems, sampling))
    return EngineTiming(
        seconds=time.monotonic() - began,
        cpu_seconds=sum(map(_cpu_seconds, processes)) - cpu_began,
        num_tokens=sum(len(completion.token_ids) for group in groups for completion in group.completions),
    )


def _family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def report(shape: Shape, timings: dict[str, list[EngineTiming]]) -> dict[str, float]:
    """Print a shape's table and return its figures."""
    print(f"\n{shape.name}: {shape.num_problems} problems x {shape.num_completions}, at most {shape.max_tokens} tokens")
    print(f"{'way':<10}{'seconds':>9}{'tokens/s':>10}{'cpu us/token':>14}")
    for way, rounds in timings.items():
        seconds, rate, cpu = (
            median(values) for values in zip(*((t.seconds, t.tokens_per_s, t.cpu_us_per_token) for t in rounds), strict=True)
        )
        print(f"{way:<10}{seconds:>9.2f}{rate:>10,.0f}{cpu:>14.0f}")
    print()

    def ratio(over: str, under: str, figure: str) -> float:
        pairs = zip(timings[over], timings[under], strict=True)
        return round(median(getattr(a, figure) / getattr(b, figure) for a, b in pairs), 3)

    return {
        f"{shape.name}_pool_over_bare": ratio("pool", "bare", "tokens_per_s"),
        f"{shape.name}_pool_over_bare_cpu": ratio("pool", "bare", "cpu_us_per_token"),
        f"{shape.name}_shared_over_separate": ratio("pool", "separate", "tokens_per_s"),
        f"{shape.name}_shared_over_separate_cpu": ratio("pool", "separate", "cpu_us_per_token"),
        f"{shape.name}_tokens_per_s": round(median(t.tokens_per_s for t in timings["pool"]), 1),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
