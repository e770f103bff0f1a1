"""Group relative policy optimisation (GRPO, arXiv 2402.03300): the loop. The maths is in learner/grpo.py.

A step takes `problems_per_step` problems and draws G completions of each from the rollout workers: a group. The reward scores them.

- **Advantage.** The driver computes all advantages of a step before its first update: `advantages_of` hands the scores of each group to
  `group_advantages` of learner/grpo.py. A completion that could not be scored is left out of its group.
- **Zero-variance groups.** All scores of such a group are equal: it has no signal. Every advantage is 0, and the learner gets none of its
  completions. With `dynamic_sampling` the stream replaces it by the group of another problem; otherwise the step learns from fewer groups.
  The run ends after `max_flat_steps` steps in a row without an update. With `dynamic_sampling` it also ends after `max_flat_steps` x
  `problems_per_step` problems in a row without a signal.
- **Updates.** The samples are split into `updates_per_step` minibatches, one optimizer step each. The clip range is always around the
  proximal policy: the learner's as it stood before the step's first update. In that first update the ratio is 1.
- **Rollout correction.** Whatever `max_staleness` is, the loss weighs tokens by proximal / rollout (`rollout_correction`). This covers the
  numerics of two implementations, and older weights.
- **Weights** change hands once a step, after its last update. The learner publishes a version, and the loop waits until every rollout
  worker serves it. A step without an update publishes nothing.
- **Staleness.** With `max_staleness` 0 a step's completions are drawn with the weights that it updates. With N, groups of the next N steps
  are generated while the learner learns. New weights are loaded meanwhile, so a completion may hold tokens of several versions. A group
  is stale if a token is more than N versions old, as after a resume. The stream generates a stale group with a signal again, as a whole.
- **Cost.** A step generates and scores `problems_per_step` x G completions, and more for groups that are replaced or generated again. Each
  sample passes forward and backward once. The weights go to every engine once. A KL term adds a forward pass of the reference. Minibatches
  after the first add a forward pass of the proximal policy, unless the rollout's log-probabilities are its own (`rollout_is_proximal`).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ovt_ray.rl.checkpoint import StreamState, save_checkpoint
from ovt_ray.rl.minibatches import run_updates, split_into_minibatches
from ovt_ray.rl.recorder import GrpoRecorder, StepRecorder
from ovt_ray.rl.samples import advantages_of, check_signal, train_samples
from ovt_ray.rl.services import GrpoServices
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.rl.stream import GroupStream, StepGroups


def train_grpo(stage: GrpoStage, services: GrpoServices, steps: StepRecorder, state: StreamState) -> None:
    """Improve the learner's model, which the rollout workers already serve, starting from a state.

    Raises StageError when no group of several steps, or of several problems, in a row had a signal.
    """
    section, learner, steps_without_update = stage.section, services.learner, state.num_without_signal
    recorder = GrpoRecorder(stage, steps, state.step)
    with GroupStream(stage, services, state) as stream, _background() as background:
        for step in range(state.step, section.num_steps):
            taken = _generate_and_score(stream, step, recorder)

            recorder.begin("update")
            advantages = advantages_of(taken.groups, section.advantage)
            samples = train_samples(taken.groups, advantages, mask_truncated=section.mask_truncated)
            minibatches = split_into_minibatches(stage, step, samples, rollout_is_proximal=taken.rollout_is_proximal)
            learning = background.submit(run_updates, learner, minibatches)
            stream.work_until(learning)  # with max_staleness above 0, groups of later steps are generated meanwhile
            updates = learning.result()

            if updates:
                _hand_over_weights(services, recorder)
            recorder.step(step, taken, updates)
            steps_without_update = 0 if updates else steps_without_update + 1
            check_signal(section, taken.groups, steps_without_update)
            if stage.is_saved_after(step):
                save_checkpoint(stage.checkpoints, stream.state(step + 1, steps_without_update), learner)


def _generate_and_score(stream: GroupStream, step: int, recorder: GrpoRecorder) -> StepGroups:
    """Return the step's scored groups."""
    recorder.begin("generate")
    stream.generate(step)
    recorder.begin("score")
    taken = stream.take(step)
    recorder.keep_groups(step, taken)
    return taken


def _hand_over_weights(services: GrpoServices, recorder: GrpoRecorder) -> None:
    """Return when every rollout worker serves the learner's weights as a new version."""
    recorder.begin("publish")
    published = services.learner.publish()
    recorder.begin("load")
    services.groups.load_weights(published)


@contextmanager
def _background() -> Iterator[ThreadPoolExecutor]:
    """Yield a second thread. After an error the loop does not wait for a running update, which ends with the services."""
    background = ThreadPoolExecutor(1)
    try:
        yield background
    finally:
        background.shutdown(wait=False)
