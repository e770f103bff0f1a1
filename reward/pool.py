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
"""Logical CPUs that a reward actor requests of Ray. Scoring is light and fits next to engines, even where they take all CPUs."""
PLACEMENT_DEADLINE_S = 60.0
"""Upper bound on the wait for Ray to place an actor."""
RESTART_S = 5.0
"""Allowance for the start of a new scoring process after a kill."""
MAX_RETRIES = 3
"""Number of times that the scoring of a group starts again because its actor died."""
ERROR_WINDOW = 200
"""Number of latest completions over which the share of `reward.max_error_share` is taken."""
MIN_COMPLETIONS = 20
"""Number of completions from which on that share is checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A submission."""

    problem: Problem
    answers: tuple[Answer, ...]
    place: int
    """Index of the reward actor that has the submission."""


class RewardPool:
    """Reward actors, which Ray restarts when they die. Each submission goes to the least busy actor.

    Scoring overlaps with generation: `submit` each completion when it ends, and `collect` its scores when they are ready or needed. At
    most `reward.queue` submissions are in progress. `submit` waits when the queue is full.
    """

    def __init__(self, config: RewardConfig) -> None:
        """Start the actors and load the parts in each.

        Raises RewardError if a part cannot be loaded, with the loader's message, or if Ray does not place the actors.
        """
        self._config = config
        self._pending: dict[ray.ObjectRef, _Pending] = {}
        """Submissions that are not collected yet."""
        self._in_work: dict[ray.ObjectRef, _Pending] = {}
        """Submissions that were not scored at the last look."""
        self._lately: deque[bool] = deque(maxlen=ERROR_WINDOW)
        self._replicas: dict[int, Replicas] = {}
        self._actors: list[Any] = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        for position, part in enumerate(self._config.parts):  # replicas first, as the reward actors receive their handles
            if runs_in_ray(part.name):
                check_replicas(part, self._config.num_actors)
                self._replicas[position] = start_replicas(part)
        num_actors = self._config.num_actors
        # One call more than the queue holds, so that an actor also answers `take_spans` while the queue is full.
        remote = ray.remote(num_cpus=CPUS_PER_ACTOR, max_restarts=-1, max_task_retries=MAX_RETRIES, max_concurrency=self._config.queue + 1)(
            RewardActor
        )
        # All before one is awaited: their processes load side by side.
        self._actors = [remote.remote(self._config, ray.cloudpickle.dumps(self._share_of(place))) for place in range(num_actors)]
        limit_s = PLACEMENT_DEADLINE_S + START_DEADLINE_S
        asked = f"reward.num_actors={num_actors}, {CPUS_PER_ACTOR} CPU each"
        late = f"{asked}: not all answered in {limit_s:g} s; `ray status` says what the cluster has"
        for actor in self._actors:
            _get(actor.ready.remote(), limit_s, late)

    def _share_of(self, place: int) -> dict[int, Replicas]:
        """Return the replicas that only this reward actor calls, so that reward actors never hold each other up."""
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
        """Yield problems with their texts and a score per text, in order, each as soon as it is scored.

        The texts are not of rollout workers, so their lengths are counted in words.
        """
        waiting: deque[tuple[Problem, Sequence[str], ray.ObjectRef[tuple[Score, ...]]]] = deque()
        for problem, texts in answered:
            waiting.append((problem, texts, self.submit_texts(problem, texts)))
            while waiting and self.are_ready([waiting[0][2]]):
                yield self._collected(*waiting.popleft())
        while waiting:
            yield self._collected(*waiting.popleft())

    def submit_texts(self, problem: Problem, texts: Sequence[str]) -> "ray.ObjectRef[tuple[Score, ...]]":
        """Return a reference as `submit` does, for texts that are not of rollout workers."""
        return self.submit(problem, [Answer.of_text(index, text) for index, text in enumerate(texts)])

    def submit(self, problem: Problem, answers: Sequence[Answer]) -> "ray.ObjectRef[tuple[Score, ...]]":
        """Return a reference to a score per answer, for `are_ready` and `collect`. Waits while the queue is full."""
        # Before the loads are counted: submissions that are scored would still count.
        self._make_room()
        loads = Counter(pending.place for pending in self._in_work.values())
        place = min(range(len(self._actors)), key=lambda place: loads[place])
        pending = _Pending(problem=problem, answers=tuple(answers), place=place)
        scores: ray.ObjectRef[tuple[Score, ...]] = self._actors[place].score.remote(problem, pending.answers)
        self._pending[scores] = self._in_work[scores] = pending
        return scores

    def discard(self, scores: "ray.ObjectRef[tuple[Score, ...]]") -> None:
        """Forget a submission that will not be collected. Until it is scored it counts for the queue and the deadlines."""
        del self._pending[scores]

    def are_ready(self, scoring: "Sequence[ray.ObjectRef[tuple[Score, ...]]]") -> bool:
        """Return whether `collect` would not wait for any of these."""
        return len(ray.wait(list(scoring), num_returns=len(scoring), timeout=0, fetch_local=False)[0]) == len(scoring)

    def collect(self, scores: "ray.ObjectRef[tuple[Score, ...]]") -> tuple[Score, ...]:
        """Wait for the scores of a submission and return them: a score per completion, even if processes or actors die.

        Raises RewardError if a part can no longer be loaded, or if rewards failed on too many of the latest completions. Raises it too
        past the time that scoring would take if it hung on every completion in flight.
        """
        # Before the submission is forgotten: its own answers count for the limit.
        limit_s = self._limit_s()
        pending = self._pending.pop(scores)
        problem_id = pending.problem.id
        late = f"problem {problem_id}: no scores after {limit_s:g} s; is its reward actor placed? see `ray list actors`"
        try:
            found = _get(scores, limit_s, late)
        except RayActorError as error:
            reason = f"the reward actor died {MAX_RETRIES + 1} times on problem {problem_id}: {error}"
            found = (unscorable(reason, Failure.CRASH),) * len(pending.answers)
        # `None`: a look at the queue may have forgotten it already, as it was scored.
        self._in_work.pop(scores, None)
        self._check_share(found)
        return found

    def take_spans(self) -> "list[ray.ObjectRef[tuple[Span, ...]]]":
        """Return for each reward actor a reference to its spans since they were last taken."""
        return [actor.take_spans.remote() for actor in self._actors]

    def close(self) -> None:
        """End the actors that the pool started, and their processes with them."""
        # Reward actors first: none may call a replica that has ended.
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
        """Forget submissions that are scored, and wait while the queue is full."""
        is_full = len(self._in_work) >= self._config.queue
        if not is_full and len(self._actors) == 1:
            return  # one actor: its load does not matter
        # This forgets scored submissions as well, so there may be room after it.
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
        """Return the seconds of scoring if every completion in progress hangs in every part and all replicas are made again."""
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
        # Only with a new failure: the share rises at no other time.
        if failed and len(self._lately) >= MIN_COMPLETIONS and num_failed > self._config.max_error_share * len(self._lately):
            raise RewardError(
                f"rewards failed on {num_failed} of the last {len(self._lately)} completions, more than "
                f"reward.max_error_share={self._config.max_error_share:g}; the last one: {failed[-1].reason}. "
                "Correct the reward, or raise the share"
            )


def _get(scores: "ray.ObjectRef[Any]", timeout_s: float, late: str) -> Any:
    """Return the value of a reference. Raises the actor's own RewardError, and a RewardError with the message `late` past the deadline."""
    try:
        return ray.get(scores, timeout=timeout_s)
    except GetTimeoutError as error:
        raise RewardError(late) from error
    except RayTaskError as error:
        if isinstance(error.cause, RewardError):
            raise error.cause from None
        raise
