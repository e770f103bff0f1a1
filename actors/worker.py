"""One rollout worker: a vLLM engine that answers problems and takes new weights while it runs."""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from actors.images import DecodedImages
from actors.pixels import PixelsOnce
from actors.shared_memory import in_shared_memory, named_memory
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.errors import OvtError, RolloutError
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.spans import Span, SpanLog
from ovt_ray.core.types import Completion, Problem, Sampling, VersionSpan
from ovt_ray.core.weights.meeting import Meeting
from ovt_ray.core.weights.version import Adapter, Weights, WeightTensor

if TYPE_CHECKING:
    from vllm import AsyncEngineArgs, CompletionOutput, SamplingParams
    from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest
    from vllm.inputs import TokensPrompt
    from vllm.logprobs import FlatLogprobs
    from vllm.outputs import RequestOutput, WeightVersionSpan
    from vllm.tokenizers import TokenizerLike


GATHER_S = 0.02
"""Time for which an ended completion waits for others in one message. A message costs as much as a completion."""

WORKER_PID = "OVT_WORKER_PID"
"""Environment variable that names the worker of an engine's processes, by its process id."""
MAX_TRIES = 3
"""Largest number of tries of a request whose completions the engine ends with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One completion of a problem that has ended. Other completions of its group may follow."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    """(T,) token ids of the prompt as the engine saw it, image placeholders expanded."""
    index: int
    """Place in the group, from 0 to G - 1."""
    completion: Completion


def completion_seed(seed: int, problem_id: str) -> int:
    """Return the seed of a problem's first completion; completion i uses this plus i, whichever worker draws it."""
    return stable_seed(seed, problem_id)


def sampling_params(sampling: Sampling, problem_id: str, prompts: Prompts) -> "SamplingParams":
    """Return how vLLM draws the completions of a problem."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.num_completions,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        bad_words=list(sampling.bad_words),
        stop=list(prompts.config.stop),
        include_stop_str_in_output=True,
        max_tokens=sampling.max_tokens,
        seed=completion_seed(sampling.seed, problem_id),
        logprobs=0,
        flat_logprobs=True,  # lists of numbers: an object per token costs four times as much in answers of 2,000 tokens
        # vLLM decodes a token twice, once for its log-probability; the worker does a completion at its end. It has to look for texts.
        detokenize=bool(prompts.config.stop),
        logit_bias=dict.fromkeys(prompts.placeholder_ids, -100.0),
        stop_token_ids=[prompts.eos_id],  # which is not the engine's own end token in every family
        # FINAL_ONLY would hold a completion back until the group's last has ended, CUMULATIVE heeds no stream interval (vLLM 0.32).
        output_kind=RequestOutputKind.DELTA,
    )


def completion_text(tokenizer: "TokenizerLike", prompt_ids: Sequence[int], token_ids: Sequence[int], *, has_ended: bool) -> str:
    """Return the text that vLLM would have given; `has_ended` says whether the last token is the end of the turn.

    A character that the length limit cut is left out. The tokenizer's own `decode` would keep it.
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
    """Return the completion that came in parts. The last part says how it ended."""
    last = parts[-1]
    if last.finish_reason not in ("stop", "length"):
        raise RolloutError(f"problem {problem_id}: the engine ended a completion with {last.finish_reason!r}")
    token_ids = tuple(token_id for part in parts for token_id in part.token_ids)
    return Completion(
        token_ids=token_ids,
        rollout_logprobs=tuple(logprob for part in parts for logprob in cast("FlatLogprobs", part.logprobs).logprobs),
        text=completion_text(
            tokenizer, prompt_ids, token_ids, has_ended=last.finish_reason == "stop" and not isinstance(last.stop_reason, str)
        ),
        finish_reason="stop" if last.finish_reason == "stop" else "length",
        versions=tuple(_version_span(span) for span in last.weight_versions or ()),
    )


class RolloutWorker:
    """An asynchronous vLLM engine; requests of many callers share its batches."""

    def __init__(self, model_path: str, model: ModelConfig, rollout: RolloutConfig) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        self.prompts = Prompts(model_path, model)
        self._images = DecodedImages(model.max_pixels)
        self._num_requests = 0
        self._num_calls = 0
        """Number of the calls of `generate` that are being answered."""
        self._is_loading = False
        self._update_turn = asyncio.Lock()
        self._spans = SpanLog()
        self._base_buckets: tuple[Any, ...] = ()
        """References to the base of the engine's weights; empty where they have no adapters."""
        self._base: list[WeightTensor] = []
        """Tensors of the base. They keep the object store's copy on this node, which every later version needs."""
        self._joined: Meeting | None = None
        """Meeting of the group that the engine's processes are in; None where they are in no group."""
        # Before the engine starts: its processes inherit the environment of that moment.
        os.environ[WORKER_PID] = str(os.getpid())
        self.engine = AsyncLLM.from_engine_args(engine_arguments(model_path, rollout))
        self._pixels = PixelsOnce(self.engine)
        for path in named_memory(os.getpid()):  # all who share it have it by now; a name would outlive a killed worker
            path.unlink(missing_ok=True)

    async def ready(self) -> int:
        """Return the worker's process id once its engine answers."""
        await self.engine.check_health()
        return os.getpid()

    async def generate(self, problems: Sequence[Problem], sampling: Sampling) -> AsyncIterator[list[Ended]]:
        """Yield the completions of all problems as they end, G of each; completions that end close together are in one list.

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
            # The caller may be gone: its completions must not take room in the engine.
            for task in answering:
                task.cancel()

    def _count_calls(self, change: int) -> None:
        self._num_calls += change
        self._note()

    def _note(self) -> None:
        self._spans.switch("load" if self._is_loading else "generate" if self._num_calls else None)

    async def take_spans(self) -> tuple[Span, ...]:
        """Return the spans of generation, and of the standstills to load weights."""
        return self._spans.take()

    async def _answer(self, problem: Problem, sampling: Sampling, ended: "asyncio.Queue[Ended | Exception]") -> None:
        """Put each of a problem's completions into the queue when it ends, or the error that ended the problem."""
        from vllm.inputs import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError

        self._num_requests += 1
        request_id = f"{problem.id}#{self._num_requests}"
        try:
            prompt = TokensPrompt(prompt_token_ids=self.prompts.engine_ids(problem))
            if problem.images:
                # In a thread: decoding a large image would hold up the completions of all other problems.
                images = await asyncio.to_thread(self._images.of, problem)
                prompt["multi_modal_data"] = {"image": [image for _, image in images]}
                prompt["multi_modal_uuids"] = {"image": [name for name, _ in images]}  # vLLM would hash the pixels
            params = sampling_params(sampling, problem.id, self.prompts)
            prompt_ids: tuple[int, ...] = ()
            async for output, parts in self._ended_choices(prompt, params, request_id):
                prompt_ids = prompt_ids or tuple(output.prompt_token_ids)  # one for the group: a message then holds it once
                completion = joined_completion(parts, problem.id, prompt_ids, self.prompts.tokenizer)
                ended.put_nowait(Ended(problem_id=problem.id, prompt_ids=prompt_ids, index=parts[-1].index, completion=completion))
        except EngineDeadError:
            os._exit(1)  # a worker without its engine is a dead worker: the pool replaces it
        except OvtError as error:  # names the problem
            ended.put_nowait(error)
        except Exception as error:
            ended.put_nowait(RolloutError(f"problem {problem.id}: {error}"))

    async def _ended_choices(
        self, prompt: "TokensPrompt", params: "SamplingParams", request_id: str
    ) -> "AsyncIterator[tuple[RequestOutput, list[CompletionOutput]]]":
        """Yield each completion of a request once, when it has ended, in the parts that the engine sent.

        vLLM's client sends no pixels that the engine should still have. It may be wrong after a cancelled call, or where both dropped
        the least recently shown images. The engine then ends the completion with an error. The error corrects the client, which sends
        the pixels at the next try. The drawn tokens do not depend on the try.
        """
        seen: set[int] = set()
        for number in range(MAX_TRIES):
            is_last = number == MAX_TRIES - 1
            parts: dict[int, list[CompletionOutput]] = {}
            name = f"{request_id}/{number}"
            with self._pixels.of(name):
                async for output in self.engine.generate(prompt, params, name):
                    for part in output.outputs:
                        parts.setdefault(part.index, []).append(part)
                        if part.finished() and part.index not in seen and (is_last or part.finish_reason != "error"):
                            seen.add(part.index)
                            yield output, parts.pop(part.index)
            if len(seen) == params.n:
                return

    async def load_weights(self, weights: Weights) -> int:
        """Return the version that the engine now serves; running generations go on under it.

        Generation pauses only when all bytes are on this node. If the engine has the version's base, it loads only layers with an
        adapter. The engine forgets all results that it computed from prompts and images with the former weights.

        Raises RolloutError if the engine did not take every tensor. The engine then has tensors of both versions. It stands still
        until it loads another version or is replaced.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferUpdateRequest

        adapters = [adapter for bucket in await asyncio.gather(*weights.adapters) for adapter in bucket]
        is_complete = not adapters or weights.buckets != self._base_buckets
        base = [tensor for bucket in await asyncio.gather(*weights.buckets) for tensor in bucket] if is_complete else self._base
        sent = base if is_complete else _with_adapter(base, adapters)
        sent = [*sent, *(factor for adapter in adapters for factor in (adapter.up, adapter.down))]
        names = {tensor.name for tensor in sent}
        with in_shared_memory([tensor.content for tensor in sent]) as places:
            update = {
                "tensors": [
                    (tensor.name, tensor.dtype, tensor.shape, place.path, place.offset) for tensor, place in zip(sent, places, strict=True)
                ],
                "adapters": [(adapter.name, adapter.scale, adapter.up.name, adapter.down.name) for adapter in adapters],
                "is_complete": is_complete,
                "checksums": {name: digest for name, digest in weights.checksums.items() if is_complete or name in names},
            }
            # The load of a collector that died goes on, while its successor asks for the same version.
            async with self._update_turn:
                await self._unless_dead(self._update(WeightTransferUpdateRequest(update_info=update), weights.version))
        # Only now: no later version may build on a base that did not arrive whole.
        self._base_buckets, self._base = (weights.buckets, base) if adapters else ((), [])
        return weights.version

    async def receive_weights(self, version: int, meeting: Meeting, first_rank: int) -> int:
        """Return the version that the engine now serves. It came through a group, which the engine joins if it is not in it.

        Running generations go on under the version. If the broadcast breaks off, the engine stands still until it loads another version.
        """
        from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest

        async def update() -> None:
            if self._joined != meeting:
                self._joined = None
                where = {"meeting": asdict(meeting), "first_rank": first_rank}
                await self.engine.init_weight_transfer_engine(WeightTransferInitRequest(init_info=where))
                if failure := await self._failure():
                    raise RolloutError(failure)
                self._joined = meeting
            await self._update(WeightTransferUpdateRequest(update_info={"is_broadcast": True}), version)

        # A load may follow a broadcast that the learner has given up. It waits until this engine has ended the broadcast too.
        async with self._update_turn:
            # Before: however the broadcast ends, the engine no longer has the base.
            self._base_buckets, self._base = (), []
            await self._unless_dead(update())
        return version

    async def _update(self, request: "WeightTransferUpdateRequest", version: int) -> None:
        self._is_loading = True
        self._note()
        # Paused before the caches go: a running request would fill them again with the old weights.
        # Clearing the caches would take the images' pixels as well. `pause_generation` would sleep for 20 ms after this.
        await self.engine.engine_core.pause_scheduler_async(mode="keep", clear_cache=False)
        await self.engine.reset_prefix_cache(reset_running_requests=True)
        await self.engine.reset_encoder_cache()
        await self.engine.start_weight_update()
        await self.engine.update_weights(request)
        failure = await self._failure()
        # Finished even after a failure: only then can the engine begin another update. It keeps its version and stays paused.
        await self.engine.finish_weight_update(None if failure else str(version))
        if failure:
            raise RolloutError(failure)
        await self.engine.resume_generation()
        self._is_loading = False
        self._note()

    async def _failure(self) -> str:
        """Return why the engine's processes failed in the last weight update; empty if they did not."""
        return next(filter(None, await self.engine.collective_rpc("weight_failure")), "")

    async def _unless_dead(self, work: Coroutine[None, None, None]) -> None:
        """Wait for the engine to do some work. A dead engine never answers (vLLM 0.32), so the worker ends with it."""
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
    """Return the next completion and all that end within GATHER_S after it; do not wait if no other is left."""
    parts = [await ended.get()]
    with suppress(TimeoutError):
        async with asyncio.timeout(GATHER_S):
            while len(parts) < num_left:
                parts.append(await ended.get())
    return parts


def _with_adapter(base: Sequence[WeightTensor], adapters: Sequence[Adapter]) -> list[WeightTensor]:
    """Return the tensors of the layers that have an adapter, biases too: a layer is loaded whole or not at all."""
    layers = {adapter.name.rpartition(".")[0] for adapter in adapters}
    return [tensor for tensor in base if tensor.name.rpartition(".")[0] in layers]


def _version_span(span: "WeightVersionSpan") -> VersionSpan:
    """Return vLLM's span as ours. An engine that has received no weights yet calls its version `default`."""
    version = 0 if span.version == "default" else int(span.version)
    return VersionSpan(version=version, num_tokens=span.end - span.start)


def engine_arguments(model_path: str, rollout: RolloutConfig) -> "AsyncEngineArgs":
    """Return the arguments that a worker's engine is started with."""
    from vllm import AsyncEngineArgs
    from vllm.config import WeightTransferConfig

    on_cpu = rollout.gpus_per_worker == 0
    return AsyncEngineArgs(
        model=model_path,
        dtype=rollout.dtype,
        max_model_len=rollout.max_model_len,
        max_num_seqs=rollout.max_num_seqs,
        tensor_parallel_size=rollout.num_shards,
        distributed_executor_backend="mp" if rollout.num_shards > 1 else "uni",  # inside an actor vLLM may start actors of its own
        enforce_eager=on_cpu,
        # A CPU engine cannot take back a seeded draw (vLLM 0.32: "CPU Generator does not use offset"), which a prompt
        # prefilled in two chunks needs; so there each prompt is prefilled whole.
        enable_chunked_prefill=not on_cpu,
        max_num_batched_tokens=max(8192, rollout.max_model_len) if on_cpu else None,
        # With a share of a GPU vLLM's own choice would count what the learner takes while the engine starts.
        kv_cache_memory_bytes=int(rollout.kv_cache_gib * 2**30) if rollout.gpus_per_worker < 1 else None,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        limit_mm_per_prompt={"image": 8, "video": 0},
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend="learner"),
        worker_extension_cls="actors.weight_extension.WeightExtension",
        scheduler_cls="actors.scheduler.scheduler",
        disable_log_stats=True,
        # An output is made of a completion's first part and of its end, and of no part between.
        stream_interval=rollout.max_model_len,
    )
