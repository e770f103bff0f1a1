"""The pixels of an image on their way to vLLM's engine: with the first completion of a group, not with each.

For G completions vLLM 0.32 (`AsyncLLM.add_request`, https://github.com/vllm-project/vllm) sends G requests, each with the pixels of
images that the engine has not seen, and the engine holds each copy until its completion has ended. It keeps what it has seen in a
cache, and takes a request without pixels for one about what is there: that is how the same image is sent again later.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.async_llm import AsyncLLM


class PixelsOnce:
    """Stands before what adds a completion to an engine, if that has the cache: an engine of text alone has none."""

    def __init__(self, engine: "AsyncLLM") -> None:
        self._add = engine.engine_core.add_request_async
        multimodal = engine.model_config.multimodal_config
        if multimodal and multimodal.mm_processor_cache_type == "lru" and engine.renderer.mm_processor_cache is not None:
            engine.engine_core.add_request_async = self.add
        self._shown: set[str | None] = set()
        """Requests of which a completion has been sent."""

    @contextmanager
    def of(self, request_id: str) -> Iterator[None]:
        """Within it the completions of a request are added."""
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
