"""What vLLM's front end tells the worker of a completion: how often, and that its parts are the whole."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from actors.worker import completion_text, engine_arguments, joined_completion, sampling_params
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.prompts import Prompts
from ovt_ray.core.types import Completion, Sampling, VersionSpan

pytestmark = pytest.mark.heavy

if TYPE_CHECKING:
    from vllm import CompletionOutput

PROMPT = [5, 6, 7]
TOKENS = {"0_p": [11, 12, 13, 14], "1_p": [21, 22]}
"""Of each of two completions, by the name of its request."""


def completed(
    tiny_model: Path, model: ModelConfig, tokens_of: dict[str, list[int]], length: int
) -> tuple[list[tuple[int, int]], dict[int, list["CompletionOutput"]], list[str]]:
    """Return when vLLM spoke of which completion, what it said of each, and whom it told the engine to stop.

    That is vLLM's own processing of outputs, on what an engine would send it step by step; a completion of that length has ended.
    """
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.engine.parallel_sampling import ParentRequest
    from vllm.v1.outputs import LogprobsLists

    prompts = Prompts(str(tiny_model), model)
    params = sampling_params(Sampling(num_completions=len(tokens_of), temperature=1.0, max_tokens=4, seed=0), "p", prompts)
    interval = engine_arguments(str(tiny_model), RolloutConfig(max_model_len=64)).stream_interval
    processor = OutputProcessor(prompts.tokenizer, log_stats=False, stream_interval=interval)
    queue = RequestOutputCollector(params.output_kind, "p")

    def request(name: str) -> EngineCoreRequest:
        return EngineCoreRequest(
            request_id=name,
            external_req_id="p",
            prompt_token_ids=PROMPT,
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )

    def sampled(name: str, step: int) -> EngineCoreOutput:
        token = tokens_of[name][step]
        logprobs = LogprobsLists(np.array([[token]]), np.array([[-float(token)]]), np.array([1]), None)
        is_last = step == len(tokens_of[name]) - 1
        return EngineCoreOutput(
            request_id=name, new_token_ids=[token], new_logprobs=logprobs, finish_reason=FinishReason.LENGTH if is_last else None
        )

    parent = ParentRequest(request("p"))
    for index in range(len(tokens_of)):
        name, _ = parent.get_child_info(index)
        processor.add_request(request(name), None, parent, index, queue)
    reported: list[tuple[int, int]] = []
    stopped: list[str] = []
    parts: dict[int, list[CompletionOutput]] = {index: [] for index in range(len(tokens_of))}
    for step in range(length):
        outputs = [sampled(name, step) for name, tokens in tokens_of.items() if step < len(tokens) and name not in stopped]
        stopped += processor.process_outputs(outputs, weight_version="3" if step < 1 else "4").reqs_to_abort
        while (output := queue.get_nowait()) is not None:
            for part in output.outputs:
                reported.append((step, part.index))
                parts[part.index].append(part)
    return reported, parts, stopped


def test_the_engine_speaks_when_a_completion_begins_and_when_it_has_ended_and_never_between(tiny_model: Path) -> None:
    reported, parts, _ = completed(tiny_model, ModelConfig(path=str(tiny_model)), TOKENS, 4)
    assert reported == [(0, 0), (0, 1), (1, 1), (3, 0)]
    tokenizer = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).tokenizer
    assert joined_completion(parts[0], "p", PROMPT, tokenizer) == Completion(
        token_ids=(11, 12, 13, 14),
        rollout_logprobs=(-11.0, -12.0, -13.0, -14.0),
        text=tokenizer.decode([11, 12, 13, 14], skip_special_tokens=True),
        finish_reason="length",
        versions=(VersionSpan(version=3, num_tokens=1), VersionSpan(version=4, num_tokens=3)),
    )


def test_a_completion_ends_with_the_token_that_completes_a_text_to_stop_at_and_keeps_it(tiny_model: Path) -> None:
    tokenizer = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model))).tokenizer
    tokens = tokenizer("ab, cd")["input_ids"]
    text = tokenizer.decode(tokens[:4])
    assert len(tokens) == 5
    model = ModelConfig(path=str(tiny_model), stop=(text[1:],))
    reported, parts, stopped = completed(tiny_model, model, {"0_p": tokens, "1_p": tokens[:2]}, len(tokens))
    assert reported == [(0, 0), (0, 1), (1, 1), (3, 0)] and stopped == ["0_p"]
    completion = joined_completion(parts[0], "p", PROMPT, tokenizer)
    assert (completion.token_ids, completion.text, completion.finish_reason) == (tuple(tokens[:4]), text, "stop")
    assert len(completion.rollout_logprobs) == 4 and completion.oldest_version == 3


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
