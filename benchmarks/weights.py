"""Measures a hand-over of weights against a memcpy, from the end of an update until every engine serves the new version.

    python -m benchmarks.weights [NUM_READERS ...]

A learner and 1, 2 and 4 real vLLM engines hold a model of 1.1 GB (`benchmarks/wide_model.py`) on this machine. A number of engines that
exceeds its memory is left out with a message. The learner publishes by the code of `learner/publisher.py`. It has no optimizer, which would
take 5 GB, and makes no updates, which would change the values and not the bytes. The engines load by `RolloutPool.load_weights`. Each round
is compared with a memcpy of the same number of bytes just before it, on one thread, in memory that was touched before. An engine on CPU has
to pack its matrices again. The time of its threads for the packing alone is shown too.

A single engine is also measured with LoRA adapters of rank 16 in all linear layers of the language model. Each version after the first then
brings only adapters, which the engine adds to the base in the object store. It is measured with `learner.weight_transport=broadcast` too.

The last measurement is between two hosts, made with network namespaces (as root), against a TCP connection's speed on the same link. The
last line is a JSON object.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import ray
import torch
from safetensors.torch import load_file
from torch import nn

from actors.placed import KEPT_HEAP, EngineLauncher, engine_environment
from actors.pool import RolloutPool
from benchmarks import hosts
from benchmarks.processes import kind_of
from benchmarks.wide_model import build_wide_model
from learner.adapters import add_adapters
from learner.model import load_model
from learner.publisher import CHECKSUM_EVERY, Publisher
from learner.rank_actor import RankActor
from learner.ranks import Ranks
from learner.transports import transport_of
from ovt_ray.core.config.run import LearnerConfig, LoraConfig, ModelConfig, RolloutConfig
from ovt_ray.core.weights.transport import PublishedVersion, StoredVersion

NUM_READERS = (1, 2, 4)
NUM_WARM_UP = 4
"""Number of rounds in which the object store's pages are touched for the first time."""
NUM_ROUNDS = 9
NUM_ROUNDS_BETWEEN_HOSTS = 5
STORE_VERSIONS = 4
"""Number of versions that fit in the object store: one is served, one is made, and the store is freed a little later."""
FREED_S = 1.5
"""Seconds between two rounds. Ray frees unreferenced objects once a second. An object that is stored sooner goes to new pages, which the
kernel has to clear."""
ENGINE_BYTES_PER_BYTE = 1.5
ENGINE_BYTES = 2**30
"""Memory of an engine without its weights."""
LORA = LoraConfig(rank=16, alpha=32)
BETWEEN_HOSTS = "between-hosts"
"""First argument of the run on the first of two hosts."""
PACKING = "packing"
"""First argument of the run that only packs matrices."""


def main(arguments: Sequence[str]) -> None:
    """Print a line per round, tables, and the figures as JSON."""
    if arguments[:1] == [BETWEEN_HOSTS]:
        between_hosts(Path(arguments[1]), int(arguments[2]))
        return
    if arguments[:1] == [PACKING]:
        print(packing_s(Path(arguments[1])))
        return
    with tempfile.TemporaryDirectory(prefix="ovt-") as folder:
        say("writing the model")
        model = Path(folder) / "model"
        num_bytes = build_wide_model(model)
        figures: dict[str, Any] = {"weight_gb": round(num_bytes / 1e9, 3), "num_cores": os.cpu_count()}
        figures["readers"] = readers = {}
        for num_readers in [int(argument) for argument in arguments] or NUM_READERS:
            if reason := lack_of_memory(num_bytes, num_readers):
                say(f"{num_readers} readers left out: {reason}")
                continue
            readers[str(num_readers)] = measure_node(model, num_bytes, num_readers, LearnerConfig())
            if num_readers == 1:
                readers["1, LoRA"] = measure_node(model, num_bytes, num_readers, LearnerConfig(lora=LORA))
                readers["1, broadcast"] = measure_node(model, num_bytes, num_readers, LearnerConfig(weight_transport="broadcast"))
        if reason := hosts.why_not():
            say(f"two hosts left out: {reason}")
        else:
            figures["two_hosts"] = measure_hosts(Path(folder), num_bytes)
    report(figures)
    print(json.dumps(figures))


def lack_of_memory(num_bytes: int, num_readers: int) -> str:
    """Return why this number of engines does not fit into memory with the learner and the object store; empty if it fits."""
    store = STORE_VERSIONS * num_bytes
    engines = num_readers * (ENGINE_BYTES_PER_BYTE * num_bytes + ENGINE_BYTES)
    needed, free = num_bytes + store + engines, psutil.virtual_memory().available
    return "" if needed <= free else f"they may need {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"


def measure_node(model: Path, num_bytes: int, num_readers: int, config: LearnerConfig) -> dict[str, float]:
    """Return the figures of a learner and `num_readers` engines on this machine."""
    say(f"{num_readers} readers, {config.weight_transport}{', LoRA' if config.lora else ''}: starting")
    num_cores = os.cpu_count() or 1
    threads = max(1, num_cores // num_readers)
    environment = {**os.environ, **engine_environment(threads), **KEPT_HEAP, "VLLM_LOGGING_LEVEL": "ERROR"}
    command = [sys.executable, "-m", "benchmarks.weights", PACKING, str(model)]
    packing = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1]
    with started_ray(num_cpus=num_cores + num_readers + 1, object_store_memory=STORE_VERSIONS * num_bytes):
        pool, learner = services(model, num_readers, threads, config)
        before = memory_by_process()
        figures = hand_over_rounds(pool, learner, num_bytes, NUM_ROUNDS)
        figures["packing_alone_s"] = round(float(packing), 4)
        with PeakMemory() as peak:
            for _ in range(3):
                time.sleep(FREED_S)
                pool.load_weights(learner.publish())
        for name, extra in peak.over(before).items():
            figures[f"extra_{name}_over_weights"] = round(extra / num_bytes, 3)
        pool.close()
    return figures


@contextmanager
def started_ray(**options: object) -> Iterator[None]:
    """Run a new Ray cluster, or join the cluster of RAY_ADDRESS."""
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **options)
    try:
        yield
    finally:
        ray.shutdown()


def publisher_of(model: Path, config: LearnerConfig) -> Publisher:
    """Return a learner of one rank that only publishes."""
    actor = ray.remote(num_cpus=1, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})(PublishingRank).remote(str(model), config)
    ray.get(actor.__ray_ready__.remote())
    return Publisher(transport_of(config, Ranks([actor], None, config.deadline_s)))


class PublishingRank(RankActor):
    """A rank that holds only the model."""

    def __init__(self, model_path: str, config: LearnerConfig) -> None:
        super().__init__(config, ModelConfig(path=model_path), seed=0)
        self._rank = 0
        self._policy = load_model(model_path, "bfloat16", "padded", None)
        if config.lora:
            add_adapters(self._policy, config.lora, seed=0)
            self._policy.to(torch.bfloat16)

    @property
    def policy(self) -> nn.Module:
        """The model."""
        return self._policy


def is_checked_version(version: int) -> bool:
    """Return whether the learner computes checksums of this version."""
    return version % CHECKSUM_EVERY == 1


def services(model: Path, num_readers: int, threads: int, config: LearnerConfig) -> tuple[RolloutPool, Publisher]:
    """Return ready engines and a ready learner. The engines are placed first."""
    rollout = RolloutConfig(
        num_workers=num_readers, cpus_per_worker=threads, dtype="bfloat16", max_model_len=256, max_num_seqs=8, kv_cache_gib=0.1
    )
    pool = RolloutPool(rollout, EngineLauncher(ModelConfig(path=str(model)), str(model)))
    pool.wait_until_ready()
    learner = publisher_of(model, config)
    return pool, learner


def hand_over_rounds(pool: RolloutPool, learner: Publisher, num_bytes: int, num_rounds: int) -> dict[str, float]:
    """Return medians over the rounds after the warm-up, and the times of rounds with a check of every byte."""
    copy = memcpy_of(num_bytes)
    rows: list[dict[str, float]] = []
    checked: list[float] = []
    while len(rows) < NUM_WARM_UP + num_rounds:
        time.sleep(FREED_S)
        memcpy_s = seconds(copy)
        began = time.monotonic()
        weights = learner.publish()
        published = time.monotonic()
        pool.load_weights(weights)
        ended = time.monotonic()
        say(f"  version {weights.version}: publish {published - began:.3f} s, load {ended - published:.3f} s, memcpy {memcpy_s:.3f} s")
        if is_checked_version(weights.version):
            checked.append(ended - began)
            continue
        rows.append({"publish_s": published - began, "load_s": ended - published, "total_s": ended - began, "memcpy_s": memcpy_s})
        rows[-1]["over_memcpy"] = rows[-1]["total_s"] / memcpy_s
    figures = {name: round(median(row[name] for row in rows[NUM_WARM_UP:]), 4) for name in rows[0]}
    figures["version_mb"] = round(num_bytes_of(weights, num_bytes) / 1e6, 2)
    figures["best_over_memcpy"] = round(min(row["over_memcpy"] for row in rows[NUM_WARM_UP:]), 3)
    figures["first_s"] = round(checked[0], 3)
    if len(checked) > 1:
        figures["checked_s"] = round(checked[-1], 3)
    return figures


def num_bytes_of(published: PublishedVersion, num_bytes: int) -> int:
    """Return the bytes that a version brings to an engine with the previous version; a broadcast brings all."""
    if not isinstance(published, StoredVersion):
        return num_bytes
    weights = published.weights
    if weights.adapters:
        adapters = [adapter for bucket in ray.get(list(weights.adapters)) for adapter in bucket]
        return sum(factor.content.nbytes for adapter in adapters for factor in (adapter.up, adapter.down))
    return sum(tensor.content.nbytes for bucket in ray.get(list(weights.buckets)) for tensor in bucket)


def memcpy_of(num_bytes: int) -> Callable[[], None]:
    """Return a function that copies `num_bytes` on one thread, in blocks far larger than any cache, between touched memory."""
    torch.set_num_threads(1)
    source = torch.ones(2**28, dtype=torch.uint8)
    target = torch.ones(2**28, dtype=torch.uint8)

    def copy() -> None:
        num_left = num_bytes
        while num_left:
            size = min(num_left, source.numel())
            target[:size].copy_(source[:size])
            num_left -= size

    return copy


def seconds(action: Callable[[], object]) -> float:
    """Return the seconds of an action."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def memory_by_process() -> dict[str, int]:
    """Return the bytes of Ray's processes and engines: the private memory of each kind, and the shared memory of all (`store`)."""
    kinds = {"publishing rank": "learner", "rollout worker": "workers", "engine": "engines"}
    sums = dict.fromkeys([*kinds.values(), "store"], 0)
    for process in psutil.Process().children(recursive=True) if ray.is_initialized() else []:
        with suppress(psutil.Error, OSError):
            kind = kinds.get(kind_of(process))
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            parts = {line.split()[0].rstrip(":"): int(line.split()[1]) * 1024 for line in lines[1:]}
            sums["store"] += parts["Pss_Shmem"]
            if kind:
                sums[kind] += parts["Pss_Anon"]
    return sums


def packing_s(model: Path) -> float:
    """Return the seconds to pack the model's matrices, as an engine with this process's threads does."""
    from vllm._custom_ops import create_onednn_mm

    matrices = [tensor.clone() for tensor in load_file(model / "model.safetensors").values() if tensor.ndim == 2]
    packed: dict[int, object] = {}
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:

        def pack(number: int) -> None:
            packed[number] = None
            packed[number] = create_onednn_mm(matrices[number].t())

        return median(seconds(lambda: list(threads.map(pack, range(len(matrices))))) for _ in range(NUM_ROUNDS))


class PeakMemory:
    """Samples the memory of all processes until the context ends."""

    def __enter__(self) -> "PeakMemory":
        self._peaks: list[dict[str, int]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._ended.wait(0.02):
            self._peaks.append(memory_by_process())

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def over(self, before: dict[str, int]) -> dict[str, int]:
        """Return the increase of each peak, and of the sum's peak (`total`), over the memory before."""
        extra = {name: max(sample[name] for sample in self._peaks) - before[name] for name in before}
        return extra | {"total": max(sum(sample.values()) for sample in self._peaks) - sum(before.values())}


def measure_hosts(folder: Path, num_bytes: int) -> dict[str, float]:
    """Return the figures of a learner and an engine on different hosts."""
    say("two hosts: starting")
    one, two = hosts.HOSTS
    # The engine requests two CPUs and is placed first, so it takes the second host, and the learner the first.
    with hosts.network(), hosts.ray_nodes({one: 1, two: 2}, STORE_VERSIONS * num_bytes, folder) as address:
        command = hosts.inside(one, [sys.executable, "-m", "benchmarks.weights", BETWEEN_HOSTS, str(folder / "model"), str(num_bytes)])
        with subprocess.Popen(command, env={**os.environ, "RAY_ADDRESS": address}, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            for line in run.stdout:
                last = line
                print(line, end="", flush=True)
        if run.returncode:
            raise RuntimeError(f"the run between two hosts failed; their logs were in {folder}")
    return json.loads(last)


def between_hosts(model: Path, num_bytes: int) -> None:
    """Print the figures of the hand-over to an engine on the second host. This runs on the first host."""
    with started_ray():
        pool, learner = services(model, num_readers=1, threads=2, config=LearnerConfig())
        link = hosts.link_bytes_per_s()
        say(f"  the link carries {link / 1e9:.2f} GB/s")
        figures = hand_over_rounds(pool, learner, num_bytes, NUM_ROUNDS_BETWEEN_HOSTS)
        pool.close()
    figures |= {"link_gb_per_s": round(link / 1e9, 3), "over_link": round(figures["total_s"] / (num_bytes / link), 3)}
    print(json.dumps(figures))


def report(figures: dict[str, Any]) -> None:
    """Print the table."""
    rows = {**figures["readers"], **({"two hosts": figures["two_hosts"]} if "two_hosts" in figures else {})}
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    print(
        f"\n{figures['weight_gb']} GB, medians of {NUM_ROUNDS} rounds on one host, {NUM_ROUNDS_BETWEEN_HOSTS} between two\n{'readers':<32}"
        + "".join(f"{name:>12}" for name in rows)
    )
    for name in names:
        print(f"{name:<32}" + "".join(f"{row.get(name, '-'):>12}" for row in rows.values()))
    print()


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("RAY_worker_niceness", "0")
    main(sys.argv[1:])
