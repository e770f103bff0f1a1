"""Distillation by two models: a captioner sees the images, then a text-only reasoner reads captions and questions.

Each runs on rollout workers of its own, one after the other, in the place of the policy's workers.
"""

import logging
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from actors.placed import EngineLauncher
from actors.pool import RolloutPool
from ovt_ray.core.config.run import ModelConfig, RolloutConfig
from ovt_ray.core.config.teachers import CaptionerConfig, ReasonerConfig
from ovt_ray.core.errors import ConfigError
from ovt_ray.core.files import append_json_lines, drop_torn_end, read_json_lines
from ovt_ray.core.prompts import EMBEDDED_CAPTIONER, EMBEDDED_REASONER, Prompts
from ovt_ray.core.seeds import stable_seed
from ovt_ray.core.types import AnswerKind, ImageSource, Problem, RolloutGroup, Sampling
from ovt_ray.distillation.chains import ROWS_AT_ONCE, Chains
from ovt_ray.distillation.reasoner_text import as_response, captioned, without_tokens
from ovt_ray.run.progress import Progress, phase
from reward.pool import RewardPool

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Teachers:
    """The two teachers of a distillation stage."""

    captioner: CaptionerConfig
    reasoner: ReasonerConfig
    rollout: RolloutConfig
    """Number and size of each teacher's workers."""
    seed: int

    def captions(self, problems: Sequence[Problem], path: Path, stage: str) -> dict[str, str]:
        """Return the caption of each problem's images by the problem's id; empty without an image, or if the captioner wrote nothing.

        The captioner does not receive the question, so problems with the same images share a request. Captions are appended to the file
        `path` as they arrive, a row for each problem. Captions that it holds from an interrupted attempt are not requested again.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        drop_torn_end(path)
        captions = {problem.id: "" for problem in problems if not problem.images}
        captions |= {row["id"]: row["caption"] for row in read_json_lines(path)}
        ids_of: defaultdict[tuple[ImageSource, ...], list[str]] = defaultdict(list)
        for problem in problems:
            if problem.id not in captions:
                ids_of[problem.images].append(problem.id)
        if not ids_of:
            return captions
        section = self.captioner
        asked = [
            Problem(id=ids[0], question=section.instruction, images=images, answer="", kind=AnswerKind.TEXT)
            for images, ids in ids_of.items()
        ]
        sampling = self._sampling("caption", 1, section.temperature, section.max_completion_tokens)
        rows: list[dict[str, str]] = []
        with (
            self._pool("captioner", section, captioner_model(section)) as pool,
            Progress(f"{stage} captions", len(asked)) as progress,
        ):
            for number, group in enumerate(pool.generate(asked, sampling)):
                caption = group.completions[0].text.strip()
                rows += [{"id": id, "caption": caption} for id in ids_of[group.problem.images]]
                if len(rows) >= ROWS_AT_ONCE or number + 1 == len(asked):
                    append_json_lines(path, rows)
                    captions |= {row["id"]: row["caption"] for row in rows}
                    rows.clear()
                progress.step(number, {})
        return captions

    def chains(self, reward: RewardPool, problems: Sequence[Problem], captions: Mapping[str, str], num_chains: int) -> Generator[Chains]:
        """Yield the scored chains of the problems in any order. A problem without a caption, or too long for the reasoner, has none."""
        model = reasoner_model(self.reasoner)
        prompts = Prompts(model.path, model)
        control_tokens = prompts.added_tokens
        words = {problem.id: without_tokens(captions[problem.id], control_tokens) for problem in problems}
        described = [
            captioned(problem, words[problem.id], self.reasoner.instruction, control_tokens) for problem in problems if words[problem.id]
        ]
        asked = [one for one in described if len(prompts.engine_ids(one)) < self.reasoner.max_model_len]
        if len(asked) < len(described):
            num_too_long = len(described) - len(asked)
            logger.warning("%d of %d problems are too long for reasoner.max_model_len: no chains", num_too_long, len(problems))
        problem_of = {problem.id: problem for problem in problems}
        left_out = problem_of.keys() - {one.id for one in asked}
        yield from (Chains(problem=one, responses=(), scores=(), caption=words[one.id]) for one in problems if one.id in left_out)
        groups: dict[str, RolloutGroup] = {}
        for problem, texts, scores in reward.score_texts(self._reasoned(asked, problem_of, num_chains, groups)):
            num_tokens = sum(len(completion.token_ids) for completion in groups.pop(problem.id).completions)
            yield Chains(problem=problem, responses=tuple(texts), scores=scores, num_tokens=num_tokens, caption=words[problem.id])

    def _reasoned(
        self, asked: Sequence[Problem], problem_of: Mapping[str, Problem], num_chains: int, groups: dict[str, RolloutGroup]
    ) -> Iterator[tuple[Problem, list[str]]]:
        """Yield problems with the reasoner's responses as they finish, and leave its samples in `groups`."""
        if not asked:
            return
        section = self.reasoner
        sampling = self._sampling("reason", num_chains, section.temperature, section.max_completion_tokens)
        with self._pool("reasoner", section, reasoner_model(section)) as pool:
            for group in pool.generate(asked, sampling):
                groups[group.problem.id] = group
                yield problem_of[group.problem.id], [as_response(completion.text) for completion in group.completions]

    def _sampling(self, purpose: str, num_completions: int, temperature: float, max_tokens: int) -> Sampling:
        seed = stable_seed(self.seed, purpose)
        return Sampling(num_completions=num_completions, temperature=temperature, max_tokens=max_tokens, seed=seed)

    @contextmanager
    def _pool(self, name: str, section: CaptionerConfig | ReasonerConfig, model: ModelConfig) -> Iterator[RolloutPool]:
        """Yield a pool of a teacher's model with ready engines, of the policy's number and size. They end with the block."""
        size = self.rollout.model_copy(update={"dtype": section.dtype, "max_model_len": section.max_model_len})
        with closing(RolloutPool(size, EngineLauncher(model, model.path))) as pool:
            with phase(f"starting the {name}"):
                pool.wait_until_ready()
            yield pool


def captioner_model(section: CaptionerConfig) -> ModelConfig:
    """Return the captioner's model with its path resolved, and the form of its prompts."""
    path = str(EMBEDDED_CAPTIONER) if section.path == "embedded" else section.path
    return ModelConfig(path=path, max_pixels=section.max_pixels, system_prompt=section.system_prompt)


def reasoner_model(section: ReasonerConfig) -> ModelConfig:
    """Return the reasoner's model with its path resolved."""
    path = str(EMBEDDED_REASONER) if section.path == "embedded" else section.path
    return ModelConfig(path=path, system_prompt=section.system_prompt)


def captioner_prompts(section: CaptionerConfig) -> Prompts:
    """Return the renderer of the captioner's prompts. Raises ConfigError naming the key if it cannot be loaded or takes no images."""
    prompts = _prompts("captioner", captioner_model(section))
    if prompts.is_text_only:
        path = prompts.config.path
        raise ConfigError(f"captioner.path: {path!r} has a tokenizer alone and sees no images; give a vision-language model")
    return prompts


def reasoner_prompts(section: ReasonerConfig) -> Prompts:
    """Return the renderer of the reasoner's prompts. Raises ConfigError naming the key if it cannot be loaded."""
    return _prompts("reasoner", reasoner_model(section))


def _prompts(key: str, model: ModelConfig) -> Prompts:
    try:
        return Prompts(model.path, model)
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.path", f"{key}.path", 1)) from error
