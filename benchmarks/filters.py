"""Measures the effect of distillation's filters on the embedded world, like the paper (arXiv 2503.17352, section 3).

    python -m benchmarks.filters [SEED ...] [key=value ...]

For each seed (default 1, 2 and 3) the two teachers write chains once. Three SFT models learn from them: unfiltered, under a word limit, and
with reflections removed too. Each takes any correct chain that passes, so that they differ only in the filters. Finished parts are kept in
`runs/filters` and not repeated.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from learner.stage import sft_stage
from ovt_ray.core.config.file import load_config
from ovt_ray.core.config.run import RunConfig
from ovt_ray.core.config.stages import DistilConfig, SftConfig
from ovt_ray.core.config.traces import TraceFilters
from ovt_ray.core.files import append_json_line, read_json_lines
from ovt_ray.core.prompts import EMBEDDED_MODEL, Prompts
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import Problem, TrainSample
from ovt_ray.data.tasks import Tasks, Wanted, load_tasks
from ovt_ray.distil import select
from ovt_ray.distillation.chains import Chains, keep_chains, read_chains
from ovt_ray.distillation.teachers import Teachers
from ovt_ray.evaluate import evaluate
from ovt_ray.run.logs import show_logs
from ovt_ray.run.recorder import Recorder
from ovt_ray.run.statistics import wilson_interval
from ovt_ray.services import Services
from ovt_ray.sft import num_sft_steps, train_sft

FOLDER = Path("runs/filters")
MAX_WORDS = 25
"""Counterpart of the paper's 500 words: hardly any careful chain is longer, and most chains that reflect are."""
BASE = "base model"
NO_LIMIT = TraceFilters(reflection="keep", max_words=None, max_repetition=None)
SETTINGS = {
    "unfiltered": NO_LIMIT,
    f"at most {MAX_WORDS} words": NO_LIMIT.model_copy(update={"max_words": MAX_WORDS}),
    "reflections removed as well": NO_LIMIT.model_copy(update={"max_words": MAX_WORDS, "reflection": "cut"}),
}


def main(arguments: Sequence[str]) -> None:
    """Train and measure every setting that is not done yet, and print the table."""
    show_logs()
    seeds = [int(argument) for argument in arguments if argument.isdigit()] or [1, 2, 3]
    config = load_config(Path("configs/tiny.yaml"), [argument for argument in arguments if not argument.isdigit()])
    tasks = {seed: load_tasks(config.data, seed, FOLDER / "images", config.problem_folder) for seed in seeds}
    num_problems = sections(config)[0].num_problems
    asked = {seed: tasks[seed].train(Wanted(purpose="iter1/distil", num=num_problems)) for seed in seeds}
    done = {(row["seed"], row["setting"]) for row in read_json_lines(FOLDER / "results.jsonl")}
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Services(config, str(EMBEDDED_MODEL)) as services:
        for seed in seeds:
            if (seed, BASE) not in done:
                measure(services, config, tasks[seed], seed=seed, setting=BASE, num_traces=0)
        chains = all_chains(services, config, [problem for problems in asked.values() for problem in problems])
        for seed in seeds:
            of_seed = [chains[problem.id] for problem in asked[seed]]
            for setting in SETTINGS:
                if (seed, setting) not in done:
                    train(services, config, tasks[seed], of_seed, seed=seed, setting=setting)
    print_table(seeds)


def sections(config: RunConfig) -> tuple[DistilConfig, SftConfig]:
    """Return the first iteration's sections of distillation and of SFT."""
    first = config.iterations[0]
    assert first.distil and first.sft
    return first.distil, first.sft


def all_chains(services: Services, config: RunConfig, problems: Sequence[Problem]) -> Mapping[str, Chains]:
    """Return the teachers' chains by the id of their problem. Chains that are not on the disk yet are requested."""
    path = FOLDER / "chains.jsonl"
    found = read_chains(path, problems)
    if left := [problem for problem in problems if problem.id not in found]:
        services.end_rollout(str(EMBEDDED_MODEL))
        teachers = Teachers(captioner=config.captioner, reasoner=config.reasoner, rollout=config.rollout, seed=config.seed)
        captions = teachers.captions(left, FOLDER / "captions.jsonl", "filters")
        written = teachers.chains(services.reward, left, captions, sections(config)[0].num_chains)
        found |= {
            one.problem.id: one for one in keep_chains(path, written, "filters chains", num_before=len(found), num_problems=len(problems))
        }
    return found


def train(services: Services, config: RunConfig, tasks: Tasks, chains: Sequence[Chains], *, seed: int, setting: str) -> None:
    """Fine-tune the base model on the traces that a setting leaves, and measure it."""
    distil, sft = sections(config)
    rules = distil.model_copy(update={"select": "random", "filters": SETTINGS[setting]})
    traces = select(chains, rules, tasks.held_out(), stable_seed(seed, "iter1/distil")).traces
    prompts = Prompts(str(EMBEDDED_MODEL), config.model)
    samples = [TrainSample(problem=trace.problem, completion_ids=prompts.response_ids(trace.response)) for trace in traces]
    num_steps = num_sft_steps(sft, len(samples))
    services.learner.begin(sft_stage(str(EMBEDDED_MODEL), sft.optimizer, num_steps))
    with Recorder(FOLDER, f"seed {seed}, {setting}", num_steps=num_steps, first_step=0) as recorder:
        train_sft(
            sft,
            samples,
            services.learner,
            recorder,
            checkpoints=FOLDER / "checkpoints",
            checkpoint_every=num_steps,
            first_step=0,
            seed=stable_seed(seed, "iter1/sft"),
        )
    services.rollout.load_weights(services.learner.publish())
    measure(services, config, tasks, seed=seed, setting=setting, num_traces=len(traces))


def measure(services: Services, config: RunConfig, tasks: Tasks, *, seed: int, setting: str, num_traces: int) -> None:
    """Record how many of the seed's held-out problems the served model answers correctly."""
    held_out = tasks.held_out()
    evaluation = evaluate(
        services,
        held_out,
        temperature=config.eval.temperature,
        max_tokens=config.max_completion_tokens,
        stage=f"seed {seed}, {setting}",
    )
    row = {"seed": seed, "setting": setting, "num_traces": num_traces, "num_correct": evaluation.num_correct}
    append_json_line(FOLDER / "results.jsonl", {**row, "num_problems": len(held_out), "response_tokens": evaluation.response_tokens})


def print_table(seeds: Sequence[int]) -> None:
    """Print, for each setting, accuracy with its 95 % interval for each seed and for all together."""
    rows = {(row["seed"], row["setting"]): row for row in read_json_lines(FOLDER / "results.jsonl")}
    print("\n| SFT-Iter1 on | " + " | ".join(f"seed {seed}" for seed in seeds) + " | together | traces | tokens an answer |")
    print("|---|" + "---|" * (len(seeds) + 3))
    for setting in (BASE, *SETTINGS):
        of_seeds = [rows[seed, setting] for seed in seeds]
        total = {key: sum(row[key] for row in of_seeds) for key in ("num_correct", "num_problems", "num_traces", "response_tokens")}
        shares = " | ".join(_share(row["num_correct"], row["num_problems"]) for row in (*of_seeds, total))
        print(f"| {setting} | {shares} | {total['num_traces']} | {total['response_tokens'] / len(seeds):.1f} |")


def _share(correct: int, total: int) -> str:
    low, high = wilson_interval(correct, total)
    return f"{correct / total:.1%} ({low:.1%} - {high:.1%})"


if __name__ == "__main__":
    main(sys.argv[1:])
