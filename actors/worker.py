"""One rollout worker: a vLLM engine that answers problems and takes new weights while it runs."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from actors.shared_memory import in_shared_memory
from ovt_ray.config import ModelConfig, RolloutConfig
from ovt_ray.errors import RolloutError
from ovt_ray.prompts import Prompts
from ovt_ray.spans import Span, SpanLog
from ovt_ray.types import Completion, Problem, Sampling, VersionSpan, WeightTensor

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs, CompletionOutput, SamplingParams
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import WeightVersionSpan
    from vllm.tokenizers import TokenizerLike


GATHER_S = 0.02
"""How long a completion that has ended waits for others to be sent with: each message costs as much as a completion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One completion of a problem, which others of its group may follow."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    """(T,) as the engine saw the prompt, image placeholders expanded."""
    index: int
    """Place in the group, from 0 to G - 1."""
    completion: Completion


def completion_seed(seed: int, problem_id: str) -> int:
    """Return the seed of a problem's first completion; completion i uses this plus i, whichever worker draws it."""
    digest = hashlib.sha256(f"{seed}/{problem_id}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def sampling_params(sampling: Sampling, problem_id: str, prompts: Prompts) -> "SamplingParams":
    """Return how vLLM draws the completions of a problem."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.num_completions,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        seed=completion_seed(sampling.seed, problem_id),
        logprobs=0,
        flat_logprobs=True,  # lists of numbers: an object per token costs four times as much in answers of 2,000 tokens
        detokenize=False,  # vLLM decodes a token twice, once for its log-probability; the worker does a completion at its end
        logit_bias=dict.fromkeys(prompts.placeholder_ids, -100.0),
        stop_token_ids=[prompts.eos_id],  # which is not the engine's own end token in every family
        # FINAL_ONLY would hold a completion back until the group's last has ended, CUMULATIVE heeds no stream interval (vLLM 0.32).
        output_kind=RequestOutputKind.DELTA,
    )


def completion_text(tokenizer: "TokenizerLike", prompt_ids: Sequence[int], token_ids: Sequence[int], *, has_ended: bool) -> str:
    """Return the text that vLLM would have given; `has_ended` says whether the last token is the end of the turn.

    It leaves a character out that the length limit cut, which the tokenizer's own `decode` does not.
    """
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.detokenizer import IncrementalDetokenizer

    request = EngineCoreRequest(
        request_id="",
        prompt_token_ids=list(prompt_ids),
        mm_features=None,
        sampling_params=SamplingParams(),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
    detokenizer.update(list(token_ids), stop_terminated=has_ended)
    return detokenizer.get_next_output_text(finished=True, delta=False)


def joined_completion(
    parts: "Sequence[CompletionOutput]", problem_id: str, prompt_ids: Sequence[int], tokenizer: "TokenizerLike"
) -> Completion:
    """Return the completion that came in parts, the last of which says how it ended."""
    last = parts[-1]
    if last.finish_reason not in ("stop", "length"):
        raise RolloutError(f"problem {problem_id}: the engine ended a completion with {last.finish_reason!r}")
    token_ids = tuple(token_id for part in parts for token_id in part.token_ids)
    return Completion(
        token_ids=token_ids,
        rollout_logprobs=tuple(logprob for part in parts for logprob in cast("FlatLogprobs", part.logprobs).logprobs),
        text=completion_text(tokenizer, prompt_ids, token_ids, has_ended=last.finish_reason == "stop"),
        finish_reason="stop" if last.finish_reason == "stop" else "length",
        versions=tuple(_version_span(span) for span in last.weight_versions or ()),
    )


class RolloutWorker:
    """An asynchronous vLLM engine; requests of many callers share its batches."""

    def __init__(self, model_path: str, model: ModelConfig, rollout: RolloutConfig) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        self.prompts = Prompts(model_path, model)
        self._num_requests = 0
        self._num_calls = 0
        """Calls of `generate` that are being answered."""
        self._is_loading = False
        self._spans = SpanLog()
        self._takes_requests = asyncio.Event()
        self._takes_requests.set()
        self.engine = AsyncLLM.from_engine_args(engine_arguments(model_path, rollout))

    async def ready(self) -> int:
        """Return the worker's process id once its engine answers."""
        await self.engine.check_health()
        return os.getpid()

    async def generate(self, problems: Sequence[Problem], sampling: Sampling) -> AsyncIterator[list[Ended]]:
        """Yield the completions of all problems as they end, G of each, those that end close together in one list.

        The completions of a problem share one prefill and one pass over the images. Raises RolloutError if a prompt leaves no room
        for a completion, or the engine gave up.
        """
        ended: asyncio.Queue[Ended | Exception] = asyncio.Queue()
        answering = [asyncio.create_task(self._answer(problem, sampling, ended)) for problem in problems]
        num_left = len(problems) * sampling.num_completions
        self._count_calls(1)
        try:
            while num_left:
                parts = await _gathered(ended, num_left)
                if failed := next((part for part in parts if isinstance(part, Exception)), None):
                    raise failed
                num_left -= len(parts)
                yield cast(list[Ended], parts)
        finally:
            self._count_calls(-1)
            for task in answering:
                task.cancel()

    def _count_calls(self, change: int) -> None:
        self._num_calls += change
        self._note()

    def _note(self) -> None:
        self._spans.switch("load" if self._is_loading else "generate" if self._num_calls else None)

    async def take_spans(self) -> tuple[Span, ...]:
        """Return when the worker generated, at least one problem being in work, and when it stood still to load weights."""
        return self._spans.take()

    async def _answer(self, problem: Problem, sampling: Sampling, ended: "asyncio.Queue[Ended | Exception]") -> None:
        """Put each of a problem's completions into the queue when it ends, or what went wrong."""
        from vllm.inputs import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        self._num_requests += 1
        request_id = f"{problem.id}#{self._num_requests}"
        try:
            prompt = TokensPrompt(prompt_token_ids=self.prompts.engine_ids(problem))
            if problem.images:
                # In a thread: decoding a large image would hold up the completions of all other problems.
                prompt["multi_modal_data"] = {"image": await asyncio.to_thread(self.prompts.images, problem)}
            params = sampling_params(sampling, problem.id, self.prompts)
            await self._takes_requests.wait()
            prompt_ids: tuple[int, ...] = ()
            parts: dict[int, list[CompletionOutput]] = {}  # by the completion's index: its first token, and the rest when it has ended
            async for output in self.engine.generate(prompt, params, request_id):
                prompt_ids = prompt_ids or tuple(output.prompt_token_ids)  # one for the group: a message then holds it once
                for part in output.outputs:
                    parts.setdefault(part.index, []).append(part)
                    if part.finished():
                        completion = joined_completion(parts.pop(part.index), problem.id, prompt_ids, self.prompts.tokenizer)
                        ended.put_nowait(Ended(problem_id=problem.id, prompt_ids=prompt_ids, index=part.index, completion=completion))
        except EngineDeadError:
            os._exit(1)  # a worker without its engine is a dead worker: the pool replaces it
        except Exception as error:
            ended.put_nowait(RolloutError(f"problem {problem.id}: {error}"))

    async def load_weights(self, version: int, buckets: "Sequence[Awaitable[Sequence[WeightTensor]]]", checksums: Mapping[str, str]) -> int:
        """Return the version that the engine now serves; running generations go on under it.

        `buckets` are Ray object references; generation pauses when all are on this node. The caches of prompts and of image
        features are emptied: they were computed with the old weights. Raises RuntimeError if the engine did not take every
        tensor; it is then stuck in the middle of an update and must be replaced.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        tensors = [tensor for bucket in await asyncio.gather(*buckets) for tensor in bucket]
        with in_shared_memory([tensor.content for tensor in tensors]) as places:
            update = {
                "tensors": [
                    (tensor.name, tensor.dtype, tensor.shape, place.path, place.offset)
                    for tensor, place in zip(tensors, places, strict=True)
                ],
                "checksums": dict(checksums),
            }
            await self._unless_dead(self._update(WeightTransferUpdateRequest(update_info=update), version))
        return version

    async def _update(self, request: "WeightTransferUpdateRequest", version: int) -> None:
        self._is_loading = True
        self._note()
        self._takes_requests.clear()  # an image that came between the resets of vLLM's two caches would be known to one of them only
        await self.engine.pause_generation(mode="keep", clear_cache=True)
        await self.engine.start_weight_update()
        await self.engine.update_weights(request)
        await self.engine.finish_weight_update(str(version))
        await self.engine.reset_mm_cache()
        await self.engine.reset_encoder_cache()
        await self.engine.resume_generation()
        self._takes_requests.set()
        self._is_loading = False
        self._note()

    async def _unless_dead(self, work: Coroutine[None, None, None]) -> None:
        """Wait for what was asked of the engine; one that has died never answers (vLLM 0.32), and the worker ends with it."""
        task = asyncio.create_task(work)
        while not task.done():
            await asyncio.wait([task], timeout=1.0)
            if self.engine.errored and not task.done():
                os._exit(1)  # the pool replaces it
        await task

    async def weight_checksums(self) -> dict[str, str]:
        """Return vLLM's own digest of each of the engine's parameters, by rank and name."""
        merged: dict[str, str] = {}
        for digests in await self.engine.compute_weight_checksums():
            merged.update(digests)
        return merged

    async def close(self) -> None:
        """End the engine's processes."""
        await asyncio.to_thread(self.engine.shutdown)


async def _gathered(ended: "asyncio.Queue[Ended | Exception]", num_left: int) -> "list[Ended | Exception]":
    """Return what ends within GATHER_S of the next end, at once where nothing else can."""
    parts = [await ended.get()]
    with suppress(TimeoutError):
        async with asyncio.timeout(GATHER_S):
            while len(parts) < num_left:
                parts.append(await ended.get())
    return parts


def _version_span(span: "WeightVersionSpan") -> VersionSpan:
    """Return vLLM's span as ours; an engine that was sent no weights yet calls its version `default`."""
    version = 0 if span.version == "default" else int(span.version)
    return VersionSpan(version=version, num_tokens=span.end - span.start)


def engine_arguments(model_path: str, rollout: RolloutConfig) -> "AsyncEngineArgs":
    """Return what a worker's engine is started with."""
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig

    on_cpu = rollout.gpus_per_worker == 0
    return AsyncEngineArgs(
        model=model_path,
        dtype=rollout.dtype,
        max_model_len=rollout.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        tensor_parallel_size=max(1, rollout.gpus_per_worker),
        enforce_eager=on_cpu,
        # A CPU engine cannot take back a seeded draw (vLLM 0.32: "CPU Generator does not use offset"), which a prompt
        # prefilled in two chunks needs; so there each prompt is prefilled whole.
        enable_chunked_prefill=not on_cpu,
        max_num_batched_tokens=max(8192, rollout.max_model_len) if on_cpu else None,
        kv_cache_memory_bytes=int(rollout.kv_cache_gib * 2**30) if on_cpu else None,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        limit_mm_per_prompt={"image": 8, "video": 0},
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend="shared_memory"),
        worker_extension_cls="actors.receiver.WeightReceiver",
        disable_log_stats=True,
        # An output is made of a completion's first token and when it has ended, of none between.
        stream_interval=rollout.max_model_len,
    )
