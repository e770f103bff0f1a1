"""Group relative policy optimisation (GRPO, arXiv 2402.03300): the loop. The maths is in learner/grpo.py.

A step takes `problems_per_step` problems and draws G completions of each from the rollout workers: a group. The reward scores them.

- **Advantage.** `group_advantages` of learner/grpo.py computes it from the scores of each group, here in the driver. A completion that
  could not be scored is left out of its group.
- **Zero-variance groups.** All scores of such a group are equal, so every advantage is 0, and it gives no samples. With `dynamic_sampling`
  another problem replaces it; otherwise the step learns from fewer groups. Too many in a row end the run.
- **Updates.** The samples are split into `updates_per_step` minibatches, one optimizer step each. The clip range is always around the
  proximal policy: the learner's as it stood before the step's first update.
- **Weights** change hands once a step, after its last update. The learner publishes a version, and every rollout worker loads it before the
  next step begins. A step without an update publishes nothing.
- **Staleness.** With `max_staleness` 0 a step's completions are drawn from the policy that it updates. With N, groups of the next N steps
  are generated while the learner learns, and new weights are loaded under them. The loss corrects for the difference
  (`rollout_correction`). A group with tokens of more than N versions ago is stale: it is generated again, before its step learns.
- **Cost.** A step generates and scores P x G completions, and passes forward and backward over each sample once. It transfers the weights
  to every engine once. A KL term adds a forward pass of the reference. More than one minibatch adds a forward pass of the proximal policy
  over all but the first, unless the rollout's log-probabilities are exact and fresh.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from ovt_ray.core.errors import StageError
from ovt_ray.rl.checkpoint import StreamState, write_state
from ovt_ray.rl.minibatches import split_into_minibatches, take_updates
from ovt_ray.rl.recorder import GrpoRecorder, StepRecorder
from ovt_ray.rl.samples import advantages_of, staleness, train_samples, why_no_signal
from ovt_ray.rl.services import GrpoServices
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.rl.stream import GroupStream


def train_grpo(stage: GrpoStage, services: GrpoServices, steps: StepRecorder, state: StreamState) -> None:
    """Improve the learner's model, which the rollout workers already serve, from a state on.

    Raises StageError when no group of several steps, or of several problems, in a row had a signal.
    """
    section, learner, num_without_signal = stage.section, services.learner, state.num_without_signal
    recorder = GrpoRecorder(stage, steps, state.step)
    with GroupStream(stage, services, state) as stream, _background() as background:
        for step in range(state.step, section.num_steps):
            recorder.begin("generate")
            stream.generate(step)
            recorder.begin("score")
            taken = stream.take(step)

            recorder.begin("update")
            behind = staleness(taken.groups, learner.version)
            rollout_is_proximal = state.rollout_is_exact and not any(behind)
            recorder.keep_groups(step, taken, rollout_is_proximal=rollout_is_proximal)
            advantages = advantages_of(taken.groups, section.advantage)
            samples = train_samples(taken.groups, advantages, mask_truncated=section.mask_truncated)
            minibatches = split_into_minibatches(stage, step, samples, rollout_is_proximal=rollout_is_proximal)
            learning = background.submit(take_updates, learner, minibatches)
            stream.work_until(learning)  # groups of later steps go on meanwhile

            if updates := learning.result():
                _hand_over_weights(services, recorder)
            recorder.step(step, taken, behind, updates)
            num_without_signal = 0 if updates else num_without_signal + 1
            if num_without_signal == section.max_flat_steps:
                where = f"{num_without_signal} steps in a row"
                raise StageError(why_no_signal(where, taken.groups, mask_truncated=section.mask_truncated))
            if (step + 1) % stage.checkpoint_every == 0 and step + 1 < section.num_steps:
                write_state(stage.checkpoints, stream.state(step + 1, num_without_signal))
                learner.save(stage.checkpoints, step + 1)


def _hand_over_weights(services: GrpoServices, recorder: GrpoRecorder) -> None:
    """Return when every rollout worker serves the learner's weights as a new version."""
    recorder.begin("publish")
    published = services.learner.publish()
    recorder.begin("load")
    services.groups.load_weights(published)


@contextmanager
def _background() -> Iterator[ThreadPoolExecutor]:
    """Yield a second thread. If an error ends the loop, its work ends with the services, so nobody waits for it."""
    background = ThreadPoolExecutor(1)
    try:
        yield background
    finally:
        background.shutdown(wait=False)
