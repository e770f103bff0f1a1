"""Turns a `Problem` into token ids and image inputs, for both the rollout engine and the learner.

Most silent failures of vision-language RL are two code paths that render differently, so only this module renders.
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
"""Names of the text inputs that processors return. All other inputs belong to the images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInputs:
    """A rendered prompt in the form that the learner takes."""

    prompt_ids: tuple[int, ...]
    """(T,) token ids, with each image placeholder expanded to one token per image feature."""
    images: "dict[str, Tensor]"
    """Image inputs that the processor made, such as `pixel_values`, by the names of the model's arguments. Empty without images."""


EMBEDDED_MODEL = Path(__file__).parents[1] / "world" / "base"
"""Folder of the tiny base model of this project; `make base` builds it."""


EMBEDDED_CAPTIONER = EMBEDDED_MODEL.with_name("captioner")
EMBEDDED_REASONER = EMBEDDED_MODEL.with_name("reasoner")
"""Folders of the tiny teachers; `make teachers` builds them."""


def model_path(config: ModelConfig) -> str:
    """Return the Hugging Face folder or hub name of the run's base model."""
    return str(EMBEDDED_MODEL) if config.path == "embedded" else config.path


class Prompts:
    """Renders problems for a model by its chat template, tokenizer and image processor."""

    def __init__(self, model_path: str, config: ModelConfig) -> None:
        """Load the tokenizer and the processor from a Hugging Face folder or hub name. Raises ConfigError if that fails.

        A text-only model has a tokenizer and no processor. Its prompts are text without placeholders.
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
        """Ids that a completion must not hold: engines cannot sample them, and the learner gives them probability 0.

        They are the placeholders for features of images, videos and sounds, and the marks where an image begins and ends. Such a mark
        is a control token that a prompt has with an image and does not have without an image.
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

        The chat template writes it after an answer. In some model families it differs from the tokenizer's own end token.
        """
        turns = [self._turn(role, "?") for role in ("user", "assistant")]
        text = self.processor.apply_chat_template(turns, tokenize=False)
        after = self.tokenizer(text.rpartition("?")[2], add_special_tokens=False)["input_ids"]
        return next((id for id in after if id in self.control_tokens.values()), self.tokenizer.eos_token_id)

    @property
    def added_tokens(self) -> list[str]:
        """Texts that the tokenizer reads as tokens of their own: control tokens, and others such as `<think>`."""
        return [token.content for token in self.tokenizer.added_tokens_decoder.values()]

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Ids of the special tokens, by their text. `all_special_tokens` lacks the tokens to which a family's tokenizer gives no role."""
        return {token.content: id for id, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    def text(self, problem: Problem) -> str:
        """Return the prompt as text, ready for the answer."""
        return self.processor.apply_chat_template(self.messages(problem), tokenize=False, add_generation_prompt=True)

    def messages(self, problem: Problem) -> list[dict[str, Any]]:
        """Return the prompt in the form of the chat template: images, question, choices, instruction."""
        body = f"{shown_text(problem)}\n{self.config.instruction}" if self.config.instruction else shown_text(problem)
        if token := next((token for token in self.control_tokens if token in body), None):
            raise DataError(f"problem {problem.id}: its text holds {token!r}, which the model reads as a control token; remove it")
        messages = [self._turn("user", body, len(problem.images))]
        if self.config.system_prompt:
            messages.insert(0, self._turn("system", self.config.system_prompt))
        return messages

    def _turn(self, role: str, text: str, num_images: int = 0) -> dict[str, Any]:
        """Return a turn of the chat. Templates of text-only models take its text alone, not a list of parts."""
        if self.is_text_only:
            assert not num_images, "a text-only model was given a problem with images"
            return {"role": role, "content": text}
        return {"role": role, "content": [*({"type": "image"} for _ in range(num_images)), {"type": "text", "text": text}]}

    def images(self, problem: Problem) -> "list[Image]":
        """Return the problem's images, decoded to RGB and scaled down to at most `max_pixels`."""
        return [load_image(source, self.config.max_pixels, problem.id) for source in problem.images]

    def engine_ids(self, problem: Problem) -> list[int]:
        """Return the prompt's ids with one placeholder per image, in the form that a rollout engine takes."""
        return self.tokenizer(self.text(problem), add_special_tokens=False)["input_ids"]

    def inputs(self, problem: Problem) -> PromptInputs:
        """Return the prompt in the form that the learner takes."""
        images = self.images(problem) or None
        # The template has already written the token that opens a text; the tokenizer must not add a second.
        rendered = self.processor(text=[self.text(problem)], images=images, add_special_tokens=False, return_tensors="pt")
        return PromptInputs(
            prompt_ids=tuple(rendered["input_ids"][0].tolist()),
            images={name: value for name, value in rendered.items() if name not in TEXT_INPUTS} if images else {},
        )

    def response_ids(self, text: str) -> tuple[int, ...]:
        """Return the ids of a response and its end-of-turn token. Text that looks like a special token stays text."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return (*ids, self.eos_id)


def shown_text(problem: Problem) -> str:
    """Return the question with the options of a choice below it, by letter. `problem_rows` refuses a row with more than 26 options."""
    options = (f"({letter}) {choice}" for letter, choice in zip(string.ascii_uppercase, problem.choices, strict=False))
    return "\n".join([problem.question, *options])


def blank_problem() -> Problem:
    """Return a problem with a small black image and no text."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (28, 28)).save(file, format="PNG")
    return Problem(id="blank", question="", images=(file.getvalue(),), answer="", kind=AnswerKind.TEXT)


def load_image(source: ImageSource, max_pixels: int, problem_id: str) -> "Image":
    """Return an image as RGB with at most `max_pixels` pixels and its aspect ratio kept.

    Raises DataError that names the problem and the file if the image cannot be read or decoded.
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
