"""The recipe of OpenVLThinker (arXiv 2503.17352) as one job: the outer loop.

    base -> for each iteration { distil traces; SFT from base on them; GRPO; each evaluated on held-out problems }

An iteration without traces is one more pass of GRPO over the model of the one before.

A stage is a function of its inputs and its section of the config. It writes to its own folder of the run and is not done
again once the ledger says it is finished; an unfinished one goes on from its last checkpoint.
"""

from learner.requirements import check_model
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.prompts import model_path
from ovt_ray.data.control_tokens import without_control_tokens
from ovt_ray.data.tasks import check_amounts, load_tasks
from ovt_ray.distillation.endpoint import check_endpoint
from ovt_ray.distillation.teachers import check_teachers
from ovt_ray.report.page import write_report
from ovt_ray.run.ledger import RunFolder
from ovt_ray.run.results import StageResult, stage_key, stage_table
from ovt_ray.stages.base import first_model, run_base
from ovt_ray.stages.distil import run_distil
from ovt_ray.stages.grpo import run_grpo
from ovt_ray.stages.session import Session
from ovt_ray.stages.sft import run_sft
from reward.check import check_rewards


def run_recipe(config: RunConfig) -> list[StageResult]:
    """Run, or go on with, all that the config asks for; return the results of all stages, which the run folder holds too."""
    with RunFolder(config) as folder:
        print(f"run folder: {folder.path}", flush=True)
        tasks = load_tasks(config.data, config.seed, folder.path / "images", config.problem_folder)
        check_rewards(config.reward)
        check_model(model_path(config.model), config.learner.layout)
        if config.has_teachers:
            check_teachers(config.captioner, config.reasoner)
        tasks = without_control_tokens(tasks, config)
        for message in tasks.loaded.dropped if tasks.loaded else ():
            print(f"left out: {message}", flush=True)
        check_amounts(tasks, config.iterations)
        for number, iteration in enumerate(config.iterations, start=1):
            if iteration.distil and iteration.distil.endpoint and not folder.finished(stage_key(number, "distil")):
                check_endpoint(iteration.distil.endpoint, f"iterations.{number - 1}.distil.endpoint")
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
