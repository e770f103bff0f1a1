"""Group relative policy optimisation (GRPO, arXiv 2402.03300): the loop. Its maths is in learner/grpo.py and samples.py.

A step answers fresh problems G times each, verifies the answers, learns from the groups that are not all alike and hands
the new weights to the rollout workers. With `max_staleness` 0 every step begins strictly on-policy; with more, the problems of later
steps are being answered while the learner learns, and new weights are loaded under them. If the config says so, each update also
learns from some of the iteration's traces.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from statistics import fmean

from ovt_ray.core.errors import StageError
from ovt_ray.core.types import UpdateStats
from ovt_ray.data.difficulty import add_pass_rates, begin_pass_rates
from ovt_ray.rl.checkpoint import StreamState, write_state
from ovt_ray.rl.minibatches import learn, lesson_of, update_figures
from ovt_ray.rl.rollouts import write_rollouts
from ovt_ray.rl.samples import group_stats, part_means, staleness, why_flat
from ovt_ray.rl.stage import GrpoStage
from ovt_ray.rl.stream import GroupStream, StepGroups
from ovt_ray.run.recorder import Track
from ovt_ray.services import Services


def train_grpo(stage: GrpoStage, services: Services, track: Track, state: StreamState) -> None:
    """Improve the learner's model, which the rollout workers already serve, from a state on.

    The pass rates of the problems are kept in the stage's folder.

    If the rollout is exact, its log-probabilities of answers by the newest weights are the learner's too, and not computed again.

    Raises StageError when no group of several steps, or of several problems, in a row had anything to teach.
    """
    section, learner, num_flat = stage.section, services.learner, state.num_flat
    begin_pass_rates(stage.folder, goes_on=state.step > 0)
    with GroupStream(stage, services, state) as stream, _background() as background:
        for step in range(state.step, section.num_steps):
            track.begin("generate")
            stream.generate(step)
            track.begin("score")
            taken = stream.take(step)
            groups = list(taken.groups.values())
            add_pass_rates(stage.folder, [(group.group.problem, group.scores) for group in groups])
            behind = staleness(groups, learner.version)
            track.begin("update")
            lesson = lesson_of(stage, step, groups, rollout_is_proximal=state.rollout_is_exact and not any(behind))
            if section.keep_rollouts:
                write_rollouts(stage.folder, step, taken.groups, lesson)
            learning = background.submit(learn, learner, lesson)
            stream.work_until(learning)
            if updates := learning.result():
                track.begin("publish")
                weights = learner.publish()
                track.begin("load")
                services.rollout.load_weights(weights)
            track.step(step, _figures(stage, taken, behind, updates, track.end_phases()))
            num_flat = 0 if updates else num_flat + 1
            if num_flat == section.max_flat_steps:
                raise StageError(why_flat(f"{num_flat} steps in a row", groups, mask_truncated=section.mask_truncated))
            if (step + 1) % stage.checkpoint_every == 0 and step + 1 < section.num_steps:
                write_state(stage.checkpoints, stream.state(step + 1, num_flat))
                learner.save(stage.checkpoints, step + 1)


@contextmanager
def _background() -> Iterator[ThreadPoolExecutor]:
    """Give a thread beside this one. What it waits for when an error ends the loop ends with the services, so nobody waits for it."""
    background = ThreadPoolExecutor(1)
    try:
        yield background
    finally:
        background.shutdown(wait=False)


def _figures(
    stage: GrpoStage, taken: StepGroups, behind: Sequence[int], updates: Sequence[UpdateStats], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Return a step's figures; those of several updates are averaged. `seconds` are those of the step's phases."""
    groups = list(taken.groups.values())
    num_tokens = sum(len(completion.token_ids) for group in groups for completion in group.group.completions)
    figures = asdict(group_stats(groups)) | part_means(groups) | update_figures(updates)
    figures |= {f"seconds_{phase}": length for phase, length in seconds.items()}
    return figures | {
        "seconds_sync": sum(seconds[phase] for phase in ("publish", "load") if phase in seconds),
        "num_tokens": num_tokens,
        "tokens_per_s": num_tokens / sum(seconds.values()),
        "staleness": fmean(behind),
        "staleness_max": max(behind),
        "num_replaced": max(0, len(groups) - stage.section.problems_per_step),
        "num_stale": taken.num_stale,
    }
