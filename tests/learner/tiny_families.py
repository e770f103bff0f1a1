"""Tiny models of several families with random weights, as ordinary Hugging Face folders: model, tokenizer, chat template, processor.

Their language models share one shape; what differs is how images reach it. Weights are named as transformers names those of a model that it
did not load; vLLM takes SigLIP's (LLaVA-OneVision, Gemma 3) only by the names of published folders, `vision_tower.vision_model`.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GenerationConfig,
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from ovt_ray.core.prompts import EMBEDDED_MODEL
from ovt_ray.world.tiny_model import tiny_config
from ovt_ray.world.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, IMAGE_PAD, TURN_END, VIDEO_PAD, VISION_END, VISION_START

TILE = 28
"""Pixels of a side of what the tiled families show their vision tower."""
PATCH = 7
TOKENS_OF_TILE = (TILE // PATCH) ** 2
VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": TILE,
    "patch_size": PATCH,
}
NORMALISE = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def build_qwen2_5_vl(folder: Path) -> None:
    """Window attention in the vision tower, M-RoPE in sections, tied embeddings."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    config = tiny_config(tokenizer)
    config.text_config.num_hidden_layers = 2
    config.text_config.layer_types = config.text_config.layer_types[:2]
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": TILE**2, "longest_edge": 100 * TILE**2}, **NORMALISE),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    _save(folder, Qwen2_5_VLForConditionalGeneration(config), processor)


def build_qwen3_vl(folder: Path) -> None:
    """Interleaved M-RoPE, vision features that are added again within the language model (deepstack), untied embeddings."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL)
    ids = tokenizer.get_vocab()
    config = Qwen3VLConfig(
        text_config=_text_config(tokenizer)
        | {"model_type": "qwen3_vl_text", "rope_parameters": _rope() | {"mrope_section": [6, 5, 5], "mrope_interleaved": True}},
        vision_config={
            "depth": 3,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 128,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=False,
    )
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 32**2, "longest_edge": 100 * 32**2}, **NORMALISE),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    _save(folder, Qwen3VLForConditionalGeneration(config), processor)


def build_internvl(folder: Path) -> None:
    """Images cut into as many tiles as their aspect ratio asks for, besides a thumbnail; plain positions."""
    tokens = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>"}
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL, extra_special_tokens=tokens)
    config = InternVLConfig(
        text_config=_text_config(tokenizer) | {"model_type": "qwen2", "rope_parameters": _rope()},
        vision_config=VISION | {"image_size": [TILE, TILE], "patch_size": [PATCH, PATCH]},
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=TOKENS_OF_TILE // 4,
        tie_word_embeddings=False,
    )
    size = {"height": TILE, "width": TILE}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4, **NORMALISE),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=TOKENS_OF_TILE // 4,
        chat_template=CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\n"),
    )
    _save(folder, InternVLForConditionalGeneration(config), processor)


def build_llava_onevision(folder: Path) -> None:
    """Images of different numbers of tiles padded to the largest, whose sizes the model is told; a parameter of the top model itself."""
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL, extra_special_tokens={"image_token": "<image>", "video_token": "<video>"})
    pinpoints = [[TILE * high, TILE * wide] for high, wide in ((1, 1), (1, 2), (2, 1), (2, 2))]
    config = LlavaOnevisionConfig(
        text_config=_text_config(tokenizer) | {"model_type": "qwen2", "rope_parameters": _rope()},
        vision_config=VISION | {"model_type": "siglip_vision_model", "vision_use_head": False},
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=False,
    )
    size = {"height": TILE, "width": TILE}
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=pinpoints, **NORMALISE),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=TOKENS_OF_TILE,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>\n"),
    )
    _save(folder, LlavaOnevisionForConditionalGeneration(config), processor)


def build_gemma3(folder: Path) -> None:
    """Layers with a sliding window, image tokens that see one another, an end-of-turn token that is not the tokenizer's end token."""
    tokens = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_MODEL, extra_special_tokens=tokens, eos_token=END_OF_TEXT)
    text = _text_config(tokenizer) | {"query_pre_attn_scalar": 32, "sliding_window": 8, "num_hidden_layers": 2}
    config = Gemma3Config(
        text_config=text | {"layer_types": ["sliding_attention", "full_attention"]},
        vision_config=VISION | {"vision_use_head": False},
        mm_tokens_per_image=TOKENS_OF_TILE // 4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        tie_word_embeddings=True,
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": TILE, "width": TILE}, **NORMALISE),
        tokenizer=tokenizer,
        image_seq_length=TOKENS_OF_TILE // 4,
        chat_template=CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<start_of_image>"),
    )
    _save(folder, Gemma3ForConditionalGeneration(config), processor)


CAUSAL_FAMILIES = {
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "internvl": build_internvl,
    "llava_onevision": build_llava_onevision,
}
"""Those whose language model is plainly causal, which packing needs."""
FAMILIES = CAUSAL_FAMILIES | {"gemma3": build_gemma3}


def _text_config(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    ids = tokenizer.get_vocab()
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": ids[TURN_END],
        "pad_token_id": ids[END_OF_TEXT],
    }


def _rope() -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 100.0}


def _save(folder: Path, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    initialise(model)
    ids = processor.tokenizer
    model.generation_config = GenerationConfig(eos_token_id=ids.eos_token_id, pad_token_id=ids.pad_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@torch.no_grad()
def initialise(model: PreTrainedModel) -> None:
    """Draw matrices from normal(0, 1 / sqrt(fan_in)) and disturb norms and biases, so that every parameter can be seen in the output."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1 and not name.endswith("image_newline"):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        else:
            parameter.normal_(0, (len(parameter) / parameter.numel()) ** 0.5, generator=generator)
