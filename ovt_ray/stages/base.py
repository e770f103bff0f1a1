"""The base stage: the model that every SFT stage starts from, measured; trained from random weights if the config says so."""

from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.prompts import model_path
from ovt_ray.core.types import Trace
from ovt_ray.run.ledger import RunFolder
from ovt_ray.run.progress import phase
from ovt_ray.run.results import stage_key
from ovt_ray.stages.session import Session
from ovt_ray.stages.sft import fine_tune
from ovt_ray.stages.training import finish_measured


def first_model(config: RunConfig, folder: RunFolder) -> str:
    """Return the model that no stage has trained: the configured folder or hub name, or random weights if the run trains its base."""
    if config.base is None:
        return model_path(config.model)
    key, model = stage_key(0, "init"), folder.stage_folder(0, "init")
    if not folder.finished(key):
        from ovt_ray.world import build_tiny_model

        with phase("building the embedded model with random weights"):
            folder.start(key)
            build_tiny_model(model, config.seed)
            folder.finish(key, [model])
    return str(model)


def run_base(session: Session) -> str:
    """Return the base model, measured."""
    if kept := session.kept(0, "base"):
        return str(kept.model or session.first_model)
    stage, section = session.start(0, "base"), session.config.base
    if section is None:
        finish_measured(session, stage, outputs=[], num_steps=0)
        return session.first_model
    from ovt_ray.world import base_traces

    with phase("drawing the base corpus"):
        assert section.num_steps, "the config refuses a base that is trained by epochs"
        corpus = base_traces(section.num_steps * section.batch_size, stage.seed, session.tasks.image_folder)
    traces = [Trace(problem=problem, response=response) for problem, response in corpus]
    return fine_tune(session, stage, section, model=session.first_model, traces=traces)
