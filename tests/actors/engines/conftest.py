"""Two real engines of the tiny model, which all tests of this folder share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.placed import EngineLauncher
from actors.pool import RolloutPool
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.types import Problem
from ovt_ray.world import world_problems


@pytest.fixture(scope="package")
def problems(tmp_path_factory: pytest.TempPathFactory) -> list[Problem]:
    return world_problems("train", 12, 0, tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="package")
def pool(ray_session: None, tiny_model: Path) -> Iterator[RolloutPool]:
    """Two engines at the weights of the tiny model; a test that loads others brings these back."""
    config = RolloutConfig(num_workers=2, max_model_len=256, kv_cache_gib=0.1)
    pool = RolloutPool(config, EngineLauncher(ModelConfig(path=str(tiny_model)), str(tiny_model)))
    yield pool
    pool.close()
