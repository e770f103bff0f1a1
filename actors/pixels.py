"""The pixels of an image on their way to vLLM's engine: with the first completion of a group, not with each.

For G completions vLLM 0.32 (`AsyncLLM.add_request`, https://github.com/vllm-project/vllm) sends G requests. Each request carries the
pixels of images that the engine has not seen. The engine holds each copy until its completion has ended.

The engine keeps images that it has seen in a cache. It reads a request without pixels as a request about images in this cache.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.async_llm import AsyncLLM


class PixelsOnce:
    """Replaces the method that adds a completion to an engine with a cache of images. A text-only engine has no such cache."""

    def __init__(self, engine: "AsyncLLM") -> None:
        self._add = engine.engine_core.add_request_async
        multimodal = engine.model_config.multimodal_config
        if multimodal and multimodal.mm_processor_cache_type == "lru" and engine.renderer.mm_processor_cache is not None:
            engine.engine_core.add_request_async = self.add
        self._shown: set[str | None] = set()
        """Requests that have sent at least one completion to the engine."""

    @contextmanager
    def of(self, request_id: str) -> Iterator[None]:
        """Hold the context in which the completions of a request are added."""
        try:
            yield
        finally:
            self._shown.discard(request_id)

    async def add(self, completion: "EngineCoreRequest") -> None:
        """Send one completion of a request to the engine."""
        if completion.external_req_id in self._shown and completion.mm_features:
            completion.mm_features = [replace(feature, data=None) for feature in completion.mm_features]
        await self._add(completion)
        self._shown.add(completion.external_req_id)
