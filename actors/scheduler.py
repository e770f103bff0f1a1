"""Inside vLLM's engine process: completions leave the engine in large parts, and not a token at a time.

vLLM sends each token with its log-probability to the worker's process at every step. One side packs it and the other unpacks it. The
learner has no use for half a completion, so here tokens wait for each other in the engine's scheduler.

This file builds on five members of the scheduler of vLLM 0.32, which vLLM does not promise to keep: `update_from_output`,
`finish_requests`, `has_requests`, `pause_state` and `requests`. Therefore pyproject.toml pins that version.
"""

from typing import Any

import numpy as np
from vllm.config import VllmConfig
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.outputs import LogprobsLists, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

MAX_WAITING = 128
"""Largest number of waiting outputs of a completion. The engine stands still while they are joined."""


class Gathering(Scheduler):
    """The scheduler of an engine that ends a step before it schedules the next: on a CPU. vLLM accepts only a subclass of its own.

    A pause sends all waiting tokens, because the engine names the weights of each message, not of each token. A completion that a
    text may end is sent token by token, because vLLM looks for the text in the worker's process.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting: dict[str, list[EngineCoreOutput]] = {}
        """Waiting outputs by request. A request is one completion."""

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> dict[int, EngineCoreOutputs]:
        """Return outputs that have ended or waited long enough, and all waiting outputs once the engine stands still."""
        updates = super().update_from_output(scheduler_output, model_runner_output)
        for update in updates.values():
            update.outputs = [part for output in update.outputs if (part := self._part(output))]
        # After the step's own outputs: a pause has to flush them too, as they are of the old weights.
        if self._is_to_send():
            for request_id, outputs in self._waiting.items():
                # Still known: whatever ends a request takes its outputs out of `_waiting` first.
                client = self.requests[request_id].client_index
                updates.setdefault(client, EngineCoreOutputs(outputs=[])).outputs.append(joined(outputs))
            self._waiting = {}
        return {
            client: update for client, update in updates.items() if update.outputs or update.finished_requests or update.scheduler_stats
        }

    def has_requests(self) -> bool:
        """Return whether the engine has to take another step. A step without tokens sends the waiting outputs."""
        return super().has_requests() or self._is_to_send()

    def finish_requests(self, request_ids: Any, finished_status: RequestStatus) -> list[Request]:
        """End requests whose callers have gone."""
        finished = super().finish_requests(request_ids, finished_status)
        # Or the next flush would look up a request that is gone.
        for request in finished:
            self._waiting.pop(request.request_id, None)
        return finished

    def _is_to_send(self) -> bool:
        return self.pause_state == PauseState.PAUSED_ALL and bool(self._waiting)

    def _part(self, output: EngineCoreOutput) -> EngineCoreOutput | None:
        """Return an output joined with the waiting outputs of its completion; None if it has to wait."""
        request = self.requests.get(output.request_id)  # gone if the same step ended it
        if request and request.sampling_params and not (output.finished or request.sampling_params.stop):
            waiting = self._waiting.setdefault(output.request_id, [])
            waiting.append(output)
            return joined(self._waiting.pop(output.request_id)) if len(waiting) == MAX_WAITING else None
        return joined([*self._waiting.pop(output.request_id, []), output])


class GatheringAsync(Gathering, AsyncScheduler):
    """The scheduler of an engine that schedules the next step during a step: on a GPU."""


def scheduler(vllm_config: VllmConfig, **named: Any) -> Scheduler:
    """Return the engine's scheduler; vLLM calls this function in place of the class."""
    kind = GatheringAsync if vllm_config.scheduler_config.async_scheduling else Gathering
    return kind(vllm_config=vllm_config, **named)


def joined(outputs: list[EngineCoreOutput]) -> EngineCoreOutput:
    """Return consecutive outputs as one output. Of their fields, only the tokens and their log-probabilities are joined."""
    first, last = outputs[0], outputs[-1]
    if first is not last:
        last.new_token_ids = [token_id for output in outputs for token_id in output.new_token_ids]
        drawn = [output.new_logprobs[:3] for output in outputs if output.new_logprobs]
        last.new_logprobs = LogprobsLists(*map(np.concatenate, zip(*drawn, strict=True))) if drawn else None
        last.prefill_stats = first.prefill_stats
    return last
