"""The handle of the reward service: Ray actors, each with scoring processes that can be killed."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from ovt_ray.core.config.run import RewardConfig
from ovt_ray.core.errors import RewardError
from ovt_ray.core.spans import Span
from ovt_ray.core.types import Failure, Problem, Score
from reward.check import check_replicas
from reward.protocol import Answer, unscorable
from reward.service.actor import RewardActor
from reward.service.places import runs_in_ray
from reward.service.replicas import MAX_TRIES, Replicas, end_replicas, start_replicas
from reward.service.replicas import START_DEADLINE_S as REPLICA_START_DEADLINE_S
from reward.service.worker import START_DEADLINE_S

CPUS_PER_ACTOR = 0.1
"""Logical CPUs asked of Ray. Scoring is light and fits beside the engines, also on a machine whose CPUs are all given out."""
PLACEMENT_DEADLINE_S = 60.0
"""Longest wait for Ray to place an actor."""
RESTART_S = 5.0
"""Allowance for a new scoring process after one was killed."""
MAX_RETRIES = 3
"""How often the scoring of a group is begun again because its actor died."""
ERROR_WINDOW = 200
"""Completions over which `reward.max_error_share` is taken: the last so many."""
MIN_COMPLETIONS = 20
"""The share of fewer completions says nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """What was submitted."""

    problem: Problem
    answers: tuple[Answer, ...]
    place: int
    """Of the reward actor that has it."""


class RewardPool:
    """Reward actors, restarted by Ray when they die; what is submitted goes to the one with the least to do.

    Scoring overlaps with generation: `submit` each completion as it ends, and `collect` what is ready, or when it is needed. Not more
    than `reward.queue` submissions are in work: `submit` waits.
    """

    def __init__(self, config: RewardConfig) -> None:
        """Start the actors and load the parts in each.

        Raises RewardError if a part cannot be loaded, with the loader's message, or if Ray does not place the actors.
        """
        self._config = config
        self._pending: dict[ray.ObjectRef, _Pending] = {}
        """What is not collected yet."""
        self._in_work: dict[ray.ObjectRef, _Pending] = {}
        """What was not scored yet when it was last looked at."""
        self._lately: deque[bool] = deque(maxlen=ERROR_WINDOW)
        self._replicas: dict[int, Replicas] = {}
        self._actors: list[Any] = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        for position, part in enumerate(self._config.parts):
            if runs_in_ray(part.name):
                check_replicas(part, self._config.num_actors)
                self._replicas[position] = start_replicas(part)
        num_actors = self._config.num_actors
        remote = ray.remote(num_cpus=CPUS_PER_ACTOR, max_restarts=-1, max_task_retries=MAX_RETRIES, max_concurrency=self._config.queue + 1)(
            RewardActor
        )
        self._actors = [remote.remote(self._config, ray.cloudpickle.dumps(self._share_of(place))) for place in range(num_actors)]
        limit_s = PLACEMENT_DEADLINE_S + START_DEADLINE_S
        asked = f"reward.num_actors={num_actors}, {CPUS_PER_ACTOR} CPU each"
        late = f"{asked}: not all answered in {limit_s:g} s; `ray status` says what the cluster has"
        for actor in self._actors:
            _get(actor.ready.remote(), limit_s, late)

    def _share_of(self, place: int) -> dict[int, Replicas]:
        """Return the replicas that one reward actor calls and no other does: what one waits for is never held up by another."""
        return {
            position: Replicas(
                name=replicas.name,
                method=replicas.method,
                actors=replicas.actors[place :: self._config.num_actors],
                is_ours=replicas.is_ours,
                concurrency=replicas.concurrency,
            )
            for position, replicas in self._replicas.items()
        }

    def score_texts(self, answered: Iterable[tuple[Problem, Sequence[str]]]) -> Iterator[tuple[Problem, Sequence[str], tuple[Score, ...]]]:
        """Yield problems and texts that no rollout worker wrote with one score per text, in order, each as soon as it is scored."""
        waiting: deque[tuple[Problem, Sequence[str], ray.ObjectRef[tuple[Score, ...]]]] = deque()
        for problem, texts in answered:
            waiting.append((problem, texts, self.submit_texts(problem, texts)))
            while waiting and self.are_ready([waiting[0][2]]):
                yield self._collected(*waiting.popleft())
        while waiting:
            yield self._collected(*waiting.popleft())

    def submit_texts(self, problem: Problem, texts: Sequence[str]) -> "ray.ObjectRef[tuple[Score, ...]]":
        """Return what `submit` does, for texts that no rollout worker wrote."""
        return self.submit(problem, [Answer.of_text(index, text) for index, text in enumerate(texts)])

    def submit(self, problem: Problem, answers: Sequence[Answer]) -> "ray.ObjectRef[tuple[Score, ...]]":
        """Return a reference to one score per answer, for `are_ready` and `collect`; waits while the queue is full."""
        self._make_room()
        loads = Counter(pending.place for pending in self._in_work.values())
        place = min(range(len(self._actors)), key=lambda place: loads[place])
        pending = _Pending(problem=problem, answers=tuple(answers), place=place)
        scores: ray.ObjectRef[tuple[Score, ...]] = self._actors[place].score.remote(problem, pending.answers)
        self._pending[scores] = self._in_work[scores] = pending
        return scores

    def discard(self, scores: "ray.ObjectRef[tuple[Score, ...]]") -> None:
        """Forget what was submitted and will not be collected; what it still takes of the queue and the deadlines is counted."""
        del self._pending[scores]

    def are_ready(self, scoring: "Sequence[ray.ObjectRef[tuple[Score, ...]]]") -> bool:
        """Return whether `collect` would not wait for any of these."""
        return len(ray.wait(list(scoring), num_returns=len(scoring), timeout=0, fetch_local=False)[0]) == len(scoring)

    def collect(self, scores: "ray.ObjectRef[tuple[Score, ...]]") -> tuple[Score, ...]:
        """Return the scores of what was submitted, waiting for them; one per completion whatever dies.

        Raises RewardError if a part can no longer be loaded, if rewards failed on too many of the last completions, or if even
        hanging on every completion in flight would not have taken so long.
        """
        limit_s = self._limit_s()
        pending = self._pending.pop(scores)
        problem_id = pending.problem.id
        late = f"problem {problem_id}: no scores after {limit_s:g} s; is its reward actor placed? see `ray list actors`"
        try:
            found = _get(scores, limit_s, late)
        except RayActorError as error:
            reason = f"the reward actor died {MAX_RETRIES + 1} times on problem {problem_id}: {error}"
            found = (unscorable(reason, Failure.CRASH),) * len(pending.answers)
        self._in_work.pop(scores, None)
        self._check_share(found)
        return found

    def take_spans(self) -> "list[ray.ObjectRef[tuple[Span, ...]]]":
        """Return a reference, actor by actor, to what each reward actor did since it was last asked."""
        return [actor.take_spans.remote() for actor in self._actors]

    def close(self) -> None:
        """End the actors that the pool started and, with them, their processes."""
        for actor in self._actors:
            ray.kill(actor)
        for replicas in self._replicas.values():
            end_replicas(replicas)
        self._actors, self._replicas = [], {}

    def _collected(
        self, problem: Problem, texts: Sequence[str], scores: "ray.ObjectRef[tuple[Score, ...]]"
    ) -> tuple[Problem, Sequence[str], tuple[Score, ...]]:
        return problem, texts, self.collect(scores)

    def _make_room(self) -> None:
        """Forget the load of what is scored, and wait while the queue is full."""
        is_full = len(self._in_work) >= self._config.queue
        if not is_full and len(self._actors) == 1:
            return  # nothing to choose between
        limit_s = self._limit_s()
        if len(self._in_work) < self._config.queue:
            return
        ready, _ = ray.wait(list(self._in_work), num_returns=1, timeout=limit_s, fetch_local=False)
        if not ready:
            raise RewardError(f"reward.queue={self._config.queue} is full, and nothing was scored in {limit_s:g} s; see `ray list actors`")
        self._forget_scored()

    def _forget_scored(self) -> None:
        refs = list(self._in_work)
        ready = ray.wait(refs, num_returns=len(refs), timeout=0, fetch_local=False)[0] if refs else []
        for ref in ready:
            del self._in_work[ref]

    def _limit_s(self) -> float:
        """Return how long scoring takes if every completion that is in work hangs in every part, and replicas are made again."""
        self._forget_scored()
        num_answers = sum(len(pending.answers) for pending in self._in_work.values())
        longest = len(self._config.parts) * self._config.deadline_s + RESTART_S
        replicas = len(self._replicas) * MAX_TRIES * REPLICA_START_DEADLINE_S
        return num_answers * longest + PLACEMENT_DEADLINE_S + START_DEADLINE_S + replicas

    def _check_share(self, scores: Sequence[Score]) -> None:
        """Raise RewardError once rewards fail on too many completions."""
        failed = [score for score in scores if score.failure is not None]
        self._lately.extend(score.failure is not None for score in scores)
        num_failed = sum(self._lately)
        if failed and len(self._lately) >= MIN_COMPLETIONS and num_failed > self._config.max_error_share * len(self._lately):
            raise RewardError(
                f"rewards failed on {num_failed} of the last {len(self._lately)} completions, more than "
                f"reward.max_error_share={self._config.max_error_share:g}; the last one: {failed[-1].reason}. "
                "Correct the reward, or raise the share"
            )


def _get(scores: "ray.ObjectRef[Any]", timeout_s: float, late: str) -> Any:
    """Return what the reference holds. Raises the far side's own RewardError, and one that says `late` past the deadline."""
    try:
        return ray.get(scores, timeout=timeout_s)
    except GetTimeoutError as error:
        raise RewardError(late) from error
    except RayTaskError as error:
        if isinstance(error.cause, RewardError):
            raise error.cause from None
        raise
