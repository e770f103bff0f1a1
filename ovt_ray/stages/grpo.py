"""The GRPO stage: reinforcement learning on verified answers, from the SFT model or from the iteration before."""

import logging
from dataclasses import replace
from pathlib import Path

from learner.checkpoints import newest
from ovt_ray.core.config.stages import GrpoConfig
from ovt_ray.distil import read_traces
from ovt_ray.grpo import train_grpo
from ovt_ray.rl.checkpoint import StreamState, read_state
from ovt_ray.rl.parity import check_parity, parity_samples
from ovt_ray.rl.rollouts import forget_rollouts
from ovt_ray.rl.stage import GrpoStage, grpo_stage
from ovt_ray.sft import trace_samples
from ovt_ray.stages.session import Session, StageRun
from ovt_ray.stages.training import begin_training, finish_training, record_steps

logger = logging.getLogger(__name__)

NUM_PARITY_PROBLEMS = 8


def run_grpo(session: Session, iteration: int, section: GrpoConfig, *, model: str, traces: Path | None) -> str:
    """Return the model that reinforcement learning makes of another one, measured; the last traces are mixed in if the section says so."""
    if kept := session.kept(iteration, "grpo"):
        return str(kept.model)
    mixed_in = traces if section.sft_coef else None
    running = session.start(
        iteration, "grpo", [path for path in (Path(model), mixed_in) if path and path.exists()]
    )  # a model may be a hub name
    samples = trace_samples(read_traces(mixed_in), session.prompts) if mixed_in else []
    stage = grpo_stage(session.config, iteration, session.tasks, traces=samples, run_dir=session.folder.path)
    state = _begin(session, running, stage, model)
    if state.step == 0:
        # Only at the start: a resumed stage keeps its rollouts and the gate's verdict on the first model.
        forget_rollouts(stage.folder)
        state = replace(state, rollout_is_exact=_passes_gate(session, running, stage) and not section.cuts)
    with record_steps(session, running, num_steps=section.num_steps, first_step=state.step) as recorder:
        train_grpo(stage, session.services, recorder, state)
    return finish_training(session, running, section.num_steps)


def _begin(session: Session, running: StageRun, stage: GrpoStage, model: str) -> StreamState:
    """Load a stage's model, or its last checkpoint, into the learner and the rollout workers; return the state to go on from."""
    # First: a damaged file is refused before minutes of loading.
    state = read_state(stage.checkpoints, newest(stage.checkpoints), stage.problems)
    begin_training(session, running, stage.for_learner(model))
    learner = session.services.learner
    # After the restore, and under the saved version: the age of restored groups counts on from it.
    session.services.rollout.load_weights(learner.publish(state.version if state.step else None))
    return state


def _passes_gate(session: Session, running: StageRun, stage: GrpoStage) -> bool:
    """Return whether rollout and learner are alike to the rounding of float32; raises ParityError if they differ by too much."""
    draw = replace(stage.sampling(-1), top_p=1.0, top_k=0, bad_words=())  # the learner's distribution is not cut off
    problems = {problem.id: problem for problem in stage.problems.take(0, NUM_PARITY_PROBLEMS)}
    samples = parity_samples(session.services.rollout.generate(list(problems.values()), draw))
    gap = check_parity(samples, session.services.learner.logprobs(samples), stage.section.max_parity_gap)
    agreement = f"within {gap.mean:.1e} a token, {gap.worst:.1e} at worst"
    logger.info("[%s] rollout and learner log-probabilities agree %s", running.key, agreement)
    return gap.is_exact
