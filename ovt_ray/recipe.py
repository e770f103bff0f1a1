"""The recipe of OpenVLThinker (arXiv 2503.17352) as one job: the outer loop.

    base -> for each iteration { distil traces; SFT from base on them; GRPO; each evaluated on held-out problems }

An iteration without traces is one more pass of GRPO over the model of the iteration before.

Each stage depends on its inputs and its section of the config, and writes to its own folder of the run. A stage that the ledger
calls finished is kept; an unfinished stage goes on from its last checkpoint.
"""

import logging

from ovt_ray.core.config.run import RunConfig
from ovt_ray.data.tasks import Tasks
from ovt_ray.report.page import write_report
from ovt_ray.run.ledger import RunFolder
from ovt_ray.run.results import StageResult, stage_keys, stage_table
from ovt_ray.stages.base import first_model, run_base
from ovt_ray.stages.distil import run_distil
from ovt_ray.stages.grpo import run_grpo
from ovt_ray.stages.session import Session
from ovt_ray.stages.sft import run_sft
from ovt_ray.start_checks import check_start

logger = logging.getLogger(__name__)


def run_recipe(config: RunConfig) -> list[StageResult]:
    """Run, or go on with, all that the config asks for; return the results of all stages, which the run folder holds too."""
    with RunFolder(config) as folder:
        logger.info("run folder: %s", folder.path)
        tasks = _checked_tasks(config, folder)
        with Session(config, folder, tasks, first_model(config, folder)) as session:
            base = model = run_base(session)
            traces = None
            for number, iteration in enumerate(config.iterations, start=1):
                if iteration.distil and iteration.sft:
                    traces = run_distil(session, number, iteration.distil)
                    model = run_sft(session, number, iteration.sft, base=base, traces=traces)
                model = run_grpo(session, number, iteration.grpo, model=model, traces=traces)
        results = folder.results()
        report = write_report(folder.path)
    print(f"\n{stage_table(results)}\n\nreport: {report}", flush=True)
    return results


def _checked_tasks(config: RunConfig, folder: RunFolder) -> Tasks:
    """Return the run's problems after all checks of a start. Raises an OvtError that names every mistake."""
    unfinished = [key for key in stage_keys(config.iterations) if not folder.finished(key)]
    tasks = check_start(config, folder.path / "images", unfinished).require()
    for message in tasks.dropped:
        logger.warning("left out: %s", message)
    return tasks
