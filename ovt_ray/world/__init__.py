"""The embedded world: a procedural visual-reasoning task, its teacher, and a tiny model to learn it."""

from pathlib import Path

from ovt_ray.world.corpus import base_traces
from ovt_ray.world.problems import KIND_OF, world_problems
from ovt_ray.world.teacher import ProceduralReasoner

__all__ = ["KIND_OF", "ProceduralReasoner", "base_traces", "build_tiny_model", "world_problems"]


def build_tiny_model(path: Path, seed: int) -> None:
    """Write a tiny Qwen2.5-VL with random weights, its tokenizer and processor to `path`. The same seed gives the same bytes.

    transformers' Auto classes and vLLM load the folder without special code. Only this call imports torch and transformers.
    """
    from ovt_ray.world import tiny_model

    tiny_model.build_tiny_model(path, seed)
