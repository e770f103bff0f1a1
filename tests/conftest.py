"""Fixtures of all tests. Tests that need real data skip, saying so, where it is absent."""

import gc
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from ovt_ray.core.types import TrainSample


HEAVY_FIXTURES = {"ray_session", "compiled_operators"}
"""A test that uses one starts Ray or DeepSpeed, and so is heavy without a mark of its own."""


HEAVY_MODULE = re.compile(r"^pytestmark = .*pytest\.mark\.heavy", re.MULTILINE)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave heavy modules out of `make test-fast` before they are imported: vLLM and DeepSpeed take seconds."""
    if "not heavy" in config.option.markexpr and collection_path.name.startswith("test_") and collection_path.is_file():
        return bool(HEAVY_MODULE.search(collection_path.read_text())) or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests as heavy by their fixtures: `make test-fast` runs the others."""
    for item in items:
        if isinstance(item, pytest.Function) and HEAVY_FIXTURES & set(item.fixturenames):
            item.add_marker("heavy")


def pytest_collection_finish() -> None:
    """Leave the collected modules out of every garbage collection: they stay until the end."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let the interpreter free everything as it ends."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data sets, which lies next to the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not here: {folder}")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray cluster in this process: four logical CPUs, and the machine's GPUs or a logical one that only tells who was put there."""
    import ray

    num_gpus = None if shutil.which("nvidia-smi") else 1
    ray.init(num_cpus=4, num_gpus=num_gpus, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with random weights, as a Hugging Face folder."""
    from ovt_ray.world import build_tiny_model

    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_tiny_model(folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def extensions_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for torch's compiled extensions. At the very end this process leaves its group of one: DeepSpeed cannot join another."""
    yield tmp_path_factory.mktemp("extensions")
    import torch

    if torch.distributed.is_initialized():  # not where only tests without a rank were chosen
        torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def compiled_operators(extensions_folder: Path) -> Iterator[Path]:
    """Where torch compiles extensions. After a module's tests the environment is as before."""
    import deepspeed  # noqa: F401

    gc.collect()
    gc.freeze()  # a rank collects garbage as it begins a stage, and half a second of that goes through pytest and the libraries
    before = dict(os.environ)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(extensions_folder)
    yield extensions_folder
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def samples(tiny_model: Path) -> list["TrainSample"]:
    """Three completions of each of five problems, with one, two or no images."""
    from tests.learner.plain_torch import drawn_samples

    return drawn_samples(tiny_model)


@pytest.fixture(scope="module")
def plain_run(tiny_model: Path, samples: list["TrainSample"]) -> tuple[dict[str, "Tensor"], list[tuple[float, float]]]:
    """Weights after two plain steps, and each step's loss and gradient norm."""
    from tests.learner.plain_torch import plain_steps

    return plain_steps(tiny_model, samples)
