"""Inside vLLM's engine process: what a completion is made of leaves the engine in large parts, and not a token at a time.

vLLM sends each token with its log-probability to the worker's process at every step, packed on one side and unpacked on the other. The
learner has no use for half a completion, so here they wait for each other in the engine's scheduler. vLLM does not promise to keep
what this builds on: `update_from_output`, `finish_requests`, `has_requests`, `pause_state` and `requests` of the scheduler of vLLM 0.32,
to which pyproject.toml holds it.
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
"""Outputs of one completion that wait at most: an engine stands still while they are joined."""


class Gathering(Scheduler):
    """Where a step is over before the next is scheduled: on a CPU. vLLM's engine takes a subclass of its scheduler and nothing less.

    A pause sends all that waits, as the engine says of each message, and not of each token, which weights it comes from. A completion
    that a text may end is sent token by token, as vLLM looks for the text in the worker's process.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting: dict[str, list[EngineCoreOutput]] = {}
        """By request; a request is one completion."""

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> dict[int, EngineCoreOutputs]:
        """Return what has ended or waited long enough, and all that waits once the engine stands still."""
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
        """Return whether the engine has to take another step; it takes one without any tokens to send what waits."""
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
        """Return an output with those of its completion that waited for it; None if it is to wait."""
        request = self.requests.get(output.request_id)  # gone if the same step ended it
        if request and request.sampling_params and not (output.finished or request.sampling_params.stop):
            waiting = self._waiting.setdefault(output.request_id, [])
            waiting.append(output)
            return joined(self._waiting.pop(output.request_id)) if len(waiting) == MAX_WAITING else None
        return joined([*self._waiting.pop(output.request_id, []), output])


class GatheringAsync(Gathering, AsyncScheduler):
    """Where the next step is scheduled meanwhile: on a GPU."""


def scheduler(vllm_config: VllmConfig, **named: Any) -> Scheduler:
    """Return the engine's scheduler; vLLM calls this where it would make one."""
    kind = GatheringAsync if vllm_config.scheduler_config.async_scheduling else Gathering
    return kind(vllm_config=vllm_config, **named)


def joined(outputs: list[EngineCoreOutput]) -> EngineCoreOutput:
    """Return outputs that follow each other as one, of all that vLLM can be asked for with tokens and their log-probabilities alone."""
    first, last = outputs[0], outputs[-1]
    if first is not last:
        last.new_token_ids = [token_id for output in outputs for token_id in output.new_token_ids]
        drawn = [output.new_logprobs[:3] for output in outputs if output.new_logprobs]
        last.new_logprobs = LogprobsLists(*map(np.concatenate, zip(*drawn, strict=True))) if drawn else None
        last.prefill_stats = first.prefill_stats
    return last
