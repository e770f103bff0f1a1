"""Inside vLLM's engine process: what a completion is made of leaves the engine once, when it has ended, and not a token at a time.

vLLM sends each token with its log-probability to the worker's process at every step, packed on one side and unpacked on the other. The
learner has no use for half a completion, so here the outputs of a completion wait for each other in the engine's scheduler.
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


class _Gathering(Scheduler):
    """A scheduler of vLLM's whose outputs are whole completions.

    A pause sends all that waits, as the engine says of each message, and not of each token, which weights it comes from. A completion
    that a text may end is sent token by token, as vLLM looks for the text in the worker's process.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting: dict[str, list[EngineCoreOutput]] = {}
        """By request; a request is one completion."""

    def update_from_output(self, scheduler_output: SchedulerOutput, model_runner_output: ModelRunnerOutput) -> dict[int, EngineCoreOutputs]:
        """Return what has ended, and all that waits once the engine stands still."""
        updates = super().update_from_output(scheduler_output, model_runner_output)
        for update in updates.values():
            update.outputs = [whole for output in update.outputs if (whole := self._whole(output))]
        if self._is_to_send():
            for request_id, outputs in self._waiting.items():
                client = self.requests[request_id].client_index
                updates.setdefault(client, EngineCoreOutputs(outputs=[])).outputs.append(_joined(outputs))
            self._waiting = {}
        return {client: update for client, update in updates.items() if update.outputs or update.finished_requests}

    def has_requests(self) -> bool:
        """Return whether the engine has to take another step; it takes one without any tokens to send what waits."""
        return super().has_requests() or self._is_to_send()

    def finish_requests(self, request_ids: Any, finished_status: RequestStatus) -> list[Request]:
        """End requests whose callers have gone."""
        finished = super().finish_requests(request_ids, finished_status)
        for request in finished:
            self._waiting.pop(request.request_id, None)
        return finished

    def _is_to_send(self) -> bool:
        return self.pause_state == PauseState.PAUSED_ALL and bool(self._waiting)

    def _whole(self, output: EngineCoreOutput) -> EngineCoreOutput | None:
        """Return an output with those of its completion that waited for it; None if it is to wait."""
        if output.finish_reason is None:
            request = self.requests[output.request_id]
            if request.sampling_params and not request.sampling_params.stop:
                self._waiting.setdefault(output.request_id, []).append(output)
                return None
        return _joined([*self._waiting.pop(output.request_id, []), output])


def _joined(outputs: list[EngineCoreOutput]) -> EngineCoreOutput:
    """Return outputs that follow each other as one."""
    first, last = outputs[0], outputs[-1]
    if first is not last:
        last.new_token_ids = [token_id for output in outputs for token_id in output.new_token_ids]
        drawn = [output.new_logprobs[:3] for output in outputs if output.new_logprobs]
        last.new_logprobs = LogprobsLists(*map(np.concatenate, zip(*drawn, strict=True))) if drawn else None
        last.prefill_stats = first.prefill_stats
    return last


class GatheringScheduler(_Gathering):
    """Where a step is over before the next is scheduled: on a CPU."""


class GatheringAsyncScheduler(_Gathering, AsyncScheduler):
    """Where the next step is scheduled meanwhile."""


def scheduler(vllm_config: VllmConfig, **named: Any) -> Scheduler:
    """Return the engine's scheduler; vLLM calls this where it would make one."""
    kind = GatheringAsyncScheduler if vllm_config.scheduler_config.async_scheduling else GatheringScheduler
    return kind(vllm_config=vllm_config, **named)
