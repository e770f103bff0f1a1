"""Train the embedded world's captioner and reasoner from the base model and put them into the package: `python scripts/make_teachers.py`.

After an interruption it continues from the last checkpoint below `runs/teachers`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from learner.group import LearnerGroup
from learner.stage import sft_stage
from ovt_ray.cluster import cluster
from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.config.stages import Optimizer, SftConfig
from ovt_ray.core.prompts import EMBEDDED_CAPTIONER, EMBEDDED_MODEL, EMBEDDED_REASONER, Prompts
from ovt_ray.core.types import Problem, TrainSample
from ovt_ray.distillation.reasoner_text import captioned
from ovt_ray.run.logs import show_logs
from ovt_ray.run.recorder import Recorder
from ovt_ray.sft import train_sft
from ovt_ray.world.teacher_corpus import caption_corpus, reasoning_corpus
from ovt_ray.world.text_model import write_text_model

FOLDER = Path("runs/teachers")
SEED = 0
CHECKPOINT_EVERY = 100
CAPTIONER = SftConfig(num_steps=150, optimizer=Optimizer(learning_rate=5e-4, betas=(0.9, 0.95), final_lr=0.05))
REASONER = SftConfig(
    num_steps=1300,
    optimizer=Optimizer(learning_rate=3e-3, betas=(0.9, 0.95), final_lr=0.05, freeze=("vision_tower", "projector")),
)


def main() -> None:
    """Train what is not trained yet, and ship both."""
    show_logs()
    config = load_config(Path("configs/tiny.yaml"), [])
    with cluster(config):
        ship(train(config, "captioner", CAPTIONER, lambda num: caption_corpus(num, SEED, FOLDER / "images")), EMBEDDED_CAPTIONER)
        write_text_model(train(config, "reasoner", REASONER, lambda num: reasoning_rows(config, num)), FOLDER / "reasoner-text")
        ship(FOLDER / "reasoner-text", EMBEDDED_REASONER)


def reasoning_rows(config: RunConfig, num: int) -> list[tuple[Problem, str]]:
    """Return the reasoner's requests, in a run's form, with the responses to learn."""
    rows = reasoning_corpus(num, SEED)
    return [(captioned(problem, words, config.reasoner.instruction), chain) for problem, words, chain in rows]


def train(config: RunConfig, name: str, section: SftConfig, corpus: Callable[[int], list[tuple[Problem, str]]]) -> Path:
    """Return the folder of the base model after fine-tuning on a single pass over a corpus."""
    model, checkpoints = FOLDER / name, FOLDER / f"{name}-checkpoints"
    if model.exists():
        return model
    assert section.num_steps
    prompts = Prompts(str(EMBEDDED_MODEL), config.model)
    rows = corpus(section.num_steps * section.batch_size)
    samples = [TrainSample(problem=problem, completion_ids=prompts.response_ids(text)) for problem, text in rows]
    learner = LearnerGroup(config.learner, config.model, SEED)
    learner.begin(sft_stage(str(EMBEDDED_MODEL), section.optimizer, section.num_steps))
    first_step = learner.restore(checkpoints)
    with Recorder(FOLDER, name, num_steps=section.num_steps, first_step=first_step) as recorder:
        train_sft(
            section,
            samples,
            learner,
            recorder,
            checkpoints=checkpoints,
            checkpoint_every=CHECKPOINT_EVERY,
            first_step=first_step,
            seed=SEED,
        )
    learner.export(model)
    learner.close()
    shutil.rmtree(checkpoints, ignore_errors=True)
    return model


def ship(model: Path, into: Path) -> None:
    """Put a model folder into the package, with its weights in bfloat16."""
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(model, into)
    weights = into / "model.safetensors"
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}, weights, metadata={"format": "pt"})
    print(f"{into}: {sum(file.stat().st_size for file in into.iterdir()) / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    main()
