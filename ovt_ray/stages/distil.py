"""The distillation stage: a source writes reasoning chains, and the verified ones become the iteration's traces."""

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from ovt_ray.core.config.stages import DistilConfig
from ovt_ray.core.errors import StageError
from ovt_ray.core.types import Problem
from ovt_ray.data.difficulty import measured_before, write_pass_rates
from ovt_ray.data.tasks import Wanted
from ovt_ray.distil import Selection, select, write_traces
from ovt_ray.distillation.chains import Chains, chains_by_dataset, chains_by_policy, keep_chains, read_chains
from ovt_ray.distillation.endpoint import chains_by_endpoint
from ovt_ray.distillation.teachers import Teachers
from ovt_ray.stages.session import Session, StageRun

logger = logging.getLogger(__name__)


def run_distil(session: Session, iteration: int, section: DistilConfig) -> Path:
    """Return the file of verified traces of an iteration."""
    if kept := session.kept(iteration, "distil"):
        return kept.outputs[0]
    stage = session.start(iteration, "distil")
    measured_by = measured_before(session.folder.path, iteration, "distil")
    problems = session.tasks.train(
        Wanted(purpose=stage.key, num=section.num_problems, choice=section.problems, measured_by=measured_by, hard=section.hard)
    )
    chains = _all_chains(session, stage, section, problems)
    if section.source == "caption":
        session.services.start_rollout()  # in the background, while the next stage begins
    if section.source != "dataset":  # a worked solution says nothing about how difficult its problem is
        write_pass_rates(stage.folder, [(answered.problem, answered.scores) for answered in chains])
    selection = select(chains, section, session.held_out, stage.seed)
    logger.info("[%s] %s", stage.key, selection.report.summary)
    _check_not_empty(selection, stage.key)
    path = write_traces(stage.folder, selection)
    # After the file: the ledger may name only outputs that are there.
    session.finish(stage, [path])
    return path


def _all_chains(session: Session, stage: StageRun, section: DistilConfig, problems: Sequence[Problem]) -> list[Chains]:
    """Return the chains of all problems in their order. Chains that an interrupted attempt left on the disk are not asked for again."""
    path = stage.checkpoints / "chains.jsonl"
    before = read_chains(path, problems)
    left = [problem for problem in problems if problem.id not in before]
    with closing(_source(session, stage, section, left)) as chains:  # an interrupted source ends its engines
        asked = keep_chains(path, chains, stage.key, num_before=len(before), num_problems=len(problems))
    all_chains = before | {answered.problem.id: answered for answered in asked}
    return [all_chains[problem.id] for problem in problems]


def _source(session: Session, stage: StageRun, section: DistilConfig, problems: Sequence[Problem]) -> Generator[Chains]:
    """Return the chains of the section's source, as they come."""
    config, services = session.config, session.services
    if section.source == "policy":
        return chains_by_policy(services.groups, problems, section, max_tokens=config.max_completion_tokens, seed=stage.seed)
    if section.source == "dataset":
        return chains_by_dataset(services.reward, problems)
    if section.source == "endpoint":
        return chains_by_endpoint(services.reward, problems, section, max_pixels=config.model.max_pixels, seed=stage.seed)
    services.end_rollout(session.newest_model)  # the teachers' engines take the place of the policy's
    teachers = Teachers(captioner=config.captioner, reasoner=config.reasoner, rollout=config.rollout, seed=stage.seed)
    captions = teachers.captions(problems, stage.checkpoints / "captions.jsonl", stage.key)
    return teachers.chains(services.reward, problems, captions, section.num_chains)


def _check_not_empty(selection: Selection, key: str) -> None:
    """Raise StageError with the counts of all fates if there is no trace."""
    if selection.traces:
        return
    report, fates = selection.report, selection.report.fates
    raise StageError(
        f"{key}: none of {report.num_responses} responses to {report.num_problems} problems gives a trace "
        f"({report.num_correct} correct, {fates['unparseable']} without a final answer, {fates['unscorable']} unscorable): "
        "use easier problems, more chains, another source, or other filters"
    )
