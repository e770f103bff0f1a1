"""The tokenizer of the embedded model: byte-level BPE, trained on the world's own texts. It keeps any Unicode text intact."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ovt_ray.world.corpus import DESCRIBE, base_traces
from ovt_ray.world.problems import world_problems

MAX_VOCAB_SIZE = 512
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Tags that are single tokens, but ordinary text: decoding keeps them."""
END_OF_TEXT, TURN_END = "<|endoftext|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIALS = (END_OF_TEXT, "<|im_start|>", TURN_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)
CHAT_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}{{ part['text'] }}{%- endif -%}
{%- endfor -%}
{%- endif -%}<|im_end|>
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant{%- endif -%}"""
"""Qwen's turns without line ends, which have no meaning: five tokens around a question."""
NUM_SENTENCES = 4000
"""Number of problems, and of traces, from which the merges are counted."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer. It depends only on this package, so all seeds share it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCAB_SIZE - len(SPECIALS) - len(TAGS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in TAGS])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[token for token in SPECIALS if token not in (TURN_END, END_OF_TEXT)],
        clean_up_tokenization_spaces=False,
    )


def _sentences() -> list[str]:
    """Return questions, choices and responses of the world, with each tag replaced by a space."""
    with TemporaryDirectory() as folder:
        problems = world_problems("train", NUM_SENTENCES, 0, Path(folder), hard=True)
        traces = base_traces(NUM_SENTENCES, 0, Path(folder))
    questions = [text for problem in problems for text in (problem.question, *(f"({choice}) {choice}" for choice in problem.choices))]
    responses = [text for problem, response in traces for text in (problem.question, response)]
    return [*questions, *(_without_tags(text) for text in responses), *["user", "assistant", "system", DESCRIBE, " maybe", " Wait,"] * 100]


def _without_tags(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, " ")
    return text
