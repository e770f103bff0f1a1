"""How every stage with a model begins and ends: the learner loads, and a trained model is exported, served and measured."""

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from learner.stage import Stage
from ovt_ray.data.order import shuffled
from ovt_ray.evaluate import Evaluation, evaluate
from ovt_ray.report.samples import SampleRecord, write_samples
from ovt_ray.run.ledger import model_folder
from ovt_ray.run.progress import phase
from ovt_ray.run.recorder import Recorder
from ovt_ray.run.results import measured
from ovt_ray.stages.session import Session, StageRun

logger = logging.getLogger(__name__)


def begin_training(session: Session, stage: StageRun, plan: Stage) -> int:
    """Load the stage's first model, or its last checkpoint, into the learner; return the step to go on from."""
    with phase(f"[{stage.key}] loading {plan.model_path}"):
        # Even if a checkpoint follows: it holds the trained parts alone, and the others come from the first model.
        session.services.learner.begin(plan)
        return session.services.learner.restore(stage.checkpoints)


def record_steps(session: Session, stage: StageRun, *, num_steps: int, first_step: int) -> Recorder:
    """Return the recorder of the stage's steps, which shows the services' actors too."""
    take_spans = session.services.take_spans
    return Recorder(session.folder.path, stage.key, num_steps=num_steps, first_step=first_step, take_spans=take_spans)


def finish_training(session: Session, stage: StageRun, num_steps: int) -> str:
    """Write the trained model, load it into the rollout workers, measure it, and finish the stage; return the model's folder."""
    model = model_folder(stage.folder)
    session.services.learner.export(model)
    # Before the measurement: workers may still serve the last hand-over, or the stage before.
    session.services.rollout.load_weights(session.services.learner.publish())
    finish_measured(session, stage, outputs=[model], num_steps=num_steps)
    return str(model)


def finish_measured(session: Session, stage: StageRun, *, outputs: Sequence[Path], num_steps: int) -> None:
    """Measure the model that the rollout workers serve on the held-out problems, keep samples of its answers, and finish the stage."""
    config, problems = session.config, session.held_out
    temperature, max_tokens = config.eval.temperature, config.max_completion_tokens
    evaluation = evaluate(session.services, problems, temperature=temperature, max_tokens=max_tokens, stage=stage.key)
    result = measured(
        stage.iteration,
        stage.name,
        num_correct=evaluation.num_correct,
        num_problems=len(problems),
        response_tokens=evaluation.response_tokens,
        seconds=time.monotonic() - stage.began,
    )
    logger.info("[%s] accuracy %s", stage.key, f"{result.accuracy:.1%} ({result.ci_low:.1%} - {result.ci_high:.1%})")
    # Before the stage counts as finished: after that it is not measured again.
    write_samples(session.folder.path, stage.key, _samples(evaluation, config.eval.num_samples_shown, num_steps))
    session.finish(stage, outputs, result)


def _samples(evaluation: Evaluation, num_shown: int, num_steps: int) -> list[SampleRecord]:
    """Return a few answers to show, to the same problems for every stage."""
    return [
        SampleRecord(
            problem=scored.group.problem,
            response=scored.group.completions[0].text,
            outcome=scored.scores[0].outcome,
            extracted=scored.scores[0].extracted,
            reward=scored.scores[0].value,
            reason=scored.scores[0].reason,
            parts=scored.scores[0].parts,
            step=num_steps,
        )
        for scored in shuffled(evaluation.groups, seed=0)[:num_shown]
    ]
