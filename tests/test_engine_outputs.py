"""What vLLM's front end tells the worker of a completion: how often, and that its parts are the whole."""

from pathlib import Path

import numpy as np

from actors.worker import engine_arguments, joined_completion, sampling_params
from ovt_ray.config import ModelConfig, RolloutConfig
from ovt_ray.prompts import Prompts
from ovt_ray.types import Completion, Sampling, VersionSpan

PROMPT = [5, 6, 7]
TOKENS = {"0_p": [11, 12, 13, 14], "1_p": [21, 22]}
"""Of each of two completions, by the name of its request."""


def test_the_engine_speaks_when_a_completion_begins_and_when_it_has_ended_and_never_between(tiny_model: Path) -> None:
    """vLLM's own processing of outputs, on what an engine would send it step by step."""
    from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.engine.parallel_sampling import ParentRequest
    from vllm.v1.outputs import LogprobsLists

    prompts = Prompts(str(tiny_model), ModelConfig(path=str(tiny_model)))
    params = sampling_params(Sampling(num_completions=2, temperature=1.0, max_tokens=4, seed=0), "p", prompts)
    interval = engine_arguments(str(tiny_model), RolloutConfig(max_model_len=64)).stream_interval
    processor = OutputProcessor(None, log_stats=False, stream_interval=interval)
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
        token = TOKENS[name][step]
        logprobs = LogprobsLists(np.array([[token]]), np.array([[-float(token)]]), np.array([1]), None)
        is_last = step == len(TOKENS[name]) - 1
        return EngineCoreOutput(
            request_id=name, new_token_ids=[token], new_logprobs=logprobs, finish_reason=FinishReason.LENGTH if is_last else None
        )

    parent = ParentRequest(request("p"))
    for index in range(2):
        name, _ = parent.get_child_info(index)
        processor.add_request(request(name), None, parent, index, queue)
    heard: list[tuple[int, int]] = []
    parts: dict[int, list] = {0: [], 1: []}
    for step in range(4):
        outputs = [sampled(name, step) for name, tokens in TOKENS.items() if step < len(tokens)]
        processor.process_outputs(outputs, weight_version="3" if step < 1 else "4")
        while (output := queue.get_nowait()) is not None:
            for part in output.outputs:
                heard.append((step, part.index))
                parts[part.index].append(part)
    assert heard == [(0, 0), (0, 1), (1, 1), (3, 0)]
    assert joined_completion(parts[0], "p", PROMPT, prompts.tokenizer) == Completion(
        token_ids=(11, 12, 13, 14),
        rollout_logprobs=(-11.0, -12.0, -13.0, -14.0),
        text=prompts.tokenizer.decode([11, 12, 13, 14], skip_special_tokens=True),
        finish_reason="length",
        versions=(VersionSpan(version=3, num_tokens=1), VersionSpan(version=4, num_tokens=3)),
    )
