"""The one place that turns a `Problem` into token ids and image inputs, for the rollout engine and the learner alike.

Most silent failures of vision-language RL are two code paths that render differently, so there is only this one.
A prompt is never truncated: a problem that is too long is refused where its length is known.
"""

import io
import string
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovt_ray.core.config.run import ModelConfig
from ovt_ray.core.errors import ConfigError, DataError
from ovt_ray.core.types import AnswerKind, ImageSource, Problem

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What processors return of the text; everything else is of the images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInputs:
    """One rendered prompt as the learner feeds it."""

    prompt_ids: tuple[int, ...]
    """(T,) image placeholders expanded to one per image feature."""
    images: "dict[str, Tensor]"
    """What the processor makes of the images, such as `pixel_values`, by the names of the model's arguments; empty without images."""


EMBEDDED_MODEL = Path(__file__).parents[1] / "world" / "base"
"""The tiny base model that comes with the project; `make base` builds it."""


EMBEDDED_CAPTIONER = EMBEDDED_MODEL.with_name("captioner")
EMBEDDED_REASONER = EMBEDDED_MODEL.with_name("reasoner")
"""The tiny teachers; `make teachers` builds them."""


def model_path(config: ModelConfig) -> str:
    """Return the Hugging Face folder or hub name of the run's base model."""
    return str(EMBEDDED_MODEL) if config.path == "embedded" else config.path


class Prompts:
    """Renders problems for one model: its chat template, its tokenizer, its image processor."""

    def __init__(self, model_path: str, config: ModelConfig) -> None:
        """Load them from a Hugging Face folder or hub name; raises ConfigError if that fails.

        A text-only model has a tokenizer and no processor; its prompts are text, and it has no placeholders.
        """
        from transformers import AutoProcessor, PreTrainedTokenizerBase

        self.config = config
        try:
            self.processor = AutoProcessor.from_pretrained(model_path)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"model.path: no processor can be loaded from {model_path!r} ({reason}); give a model folder or hub name"
            ) from error
        self.is_text_only = isinstance(self.processor, PreTrainedTokenizerBase)
        self.tokenizer = self.processor if self.is_text_only else self.processor.tokenizer

    @cached_property
    def placeholder_ids(self) -> tuple[int, ...]:
        """Ids that a completion must not hold: engines cannot sample them and the learner gives them probability 0.

        They are what stands for features of images, videos and sounds, and what marks where an image begins and ends: each control
        token that a prompt has with an image and does not have without.
        """
        if self.is_text_only:
            return ()
        blank = blank_problem()
        with_image, without = (set(self.inputs(problem).prompt_ids) for problem in (blank, replace(blank, images=())))
        named = self.tokenizer.convert_tokens_to_ids(self.processor.all_special_multimodal_tokens)
        features = {id for id in (*self.processor.image_token_ids, *named) if id is not None}
        return tuple(sorted(features | (with_image - without) & set(self.control_tokens.values())))

    @cached_property
    def eos_id(self) -> int:
        """Id of the end-of-turn token, which closes every response.

        It is what the chat template writes after an answer; the tokenizer's own end token is another one in some families.
        """
        turns = [self._turn(role, "?") for role in ("user", "assistant")]
        text = self.processor.apply_chat_template(turns, tokenize=False)
        after = self.tokenizer(text.rpartition("?")[2], add_special_tokens=False)["input_ids"]
        return next((id for id in after if id in self.control_tokens.values()), self.tokenizer.eos_token_id)

    @property
    def added_tokens(self) -> list[str]:
        """The texts that the tokenizer reads as tokens of their own: control tokens, and such as `<think>`."""
        return [token.content for token in self.tokenizer.added_tokens_decoder.values()]

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Ids of the special tokens, by their text; `all_special_tokens` lacks those that a family's tokenizer gives no role."""
        return {token.content: id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    def text(self, problem: Problem) -> str:
        """Return the prompt as text, ready for the answer."""
        return self.processor.apply_chat_template(self.messages(problem), tokenize=False, add_generation_prompt=True)

    def messages(self, problem: Problem) -> list[dict[str, Any]]:
        """Return the prompt as the chat template takes it: images, question, choices, instruction."""
        body = f"{shown_text(problem)}\n{self.config.instruction}" if self.config.instruction else shown_text(problem)
        if token := next((token for token in self.control_tokens if token in body), None):
            raise DataError(f"problem {problem.id}: its text holds {token!r}, which the model reads as a control token; remove it")
        messages = [self._turn("user", body, len(problem.images))]
        if self.config.system_prompt:
            messages.insert(0, self._turn("system", self.config.system_prompt))
        return messages

    def _turn(self, role: str, text: str, num_images: int = 0) -> dict[str, Any]:
        """Return one turn; templates of text-only models take its text alone, not a list of parts."""
        if self.is_text_only:
            assert not num_images, "a text-only model was given a problem with images"
            return {"role": role, "content": text}
        return {"role": role, "content": [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": text}]}

    def images(self, problem: Problem) -> "list[Image]":
        """Return the problem's images, decoded to RGB and scaled down to at most `max_pixels`."""
        return [load_image(source, self.config.max_pixels, problem.id) for source in problem.images]

    def engine_ids(self, problem: Problem) -> list[int]:
        """Return the prompt's ids with one placeholder per image, as a rollout engine takes them."""
        return self.tokenizer(self.text(problem), add_special_tokens=False)["input_ids"]

    def inputs(self, problem: Problem) -> PromptInputs:
        """Return the prompt as the learner takes it."""
        images = self.images(problem) or None
        # The template has written what opens a text; a tokenizer that adds it would do so twice.
        rendered = self.processor(text=[self.text(problem)], images=images, add_special_tokens=False, return_tensors="pt")
        return PromptInputs(
            prompt_ids=tuple(rendered["input_ids"][0].tolist()),
            images={name: value for name, value in rendered.items() if name not in TEXT_INPUTS} if images else {},
        )

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a response and its end-of-turn token; text that looks like a special token stays text."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return (*ids, self.eos_id)


def shown_text(problem: Problem) -> str:
    """Return the question and below it the options of a choice, by letter; `problem_rows` lets no row have more options than letters."""
    options = (f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, problem.choices, strict=False))
    return "\n".join([problem.question, *options])


def blank_problem() -> Problem:
    """Return one small black image and no text."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (28, 28)).save(file, format="PNG")
    return Problem(id="blank", question="", images=(file.getvalue(),), answer="", kind=AnswerKind.TEXT)


def load_image(source: ImageSource, max_pixels: int, problem_id: str) -> "Image":
    """Return one image as RGB of at most `max_pixels` pixels, its aspect ratio kept.

    Raises DataError naming the problem and the file if it cannot be read or decoded.
    """
    from PIL import Image, UnidentifiedImageError

    name = source if isinstance(source, str) else f"{len(source)} bytes"
    try:
        with Image.open(source if isinstance(source, str) else io.BytesIO(source)) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DataError(f"problem {problem_id}: image {name} cannot be read: {error}") from error
    num_pixels = image.width * image.height
    if num_pixels <= max_pixels:
        return image
    scale = (max_pixels / num_pixels) ** 0.5
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)
