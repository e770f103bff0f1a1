"""A Qwen2.5-VL of about a million parameters with random weights, as an ordinary Hugging Face folder."""

import math
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from ovt_ray.world.figures import CELL
from ovt_ray.world.tokenizer import (
    CHAT_TEMPLATE,
    END_OF_TEXT,
    IMAGE_PAD,
    TURN_END,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    build_tokenizer,
)

NUM_LAYERS = 4
VISION_DEPTH = 2


def build_tiny_model(path: Path, seed: int) -> None:
    """Write the model, its tokenizer, chat template and processor to `path`. The same seed gives the same bytes.

    transformers' Auto classes and vLLM load the folder without special code.
    """
    tokenizer = build_tokenizer()
    config = tiny_config(tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(config)
    initialise(model, seed)
    model.generation_config = GenerationConfig(
        eos_token_id=config.text_config.eos_token_id, pad_token_id=config.text_config.pad_token_id, do_sample=False
    )
    model.save_pretrained(path)
    size = {"shortest_edge": CELL * CELL, "longest_edge": 28 * 28 * 1280}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, image_mean=[0.75] * 3, image_std=[0.25] * 3),  # pixels of these pictures
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLConfig:
    """Return the shape of the model: 4 layers of width 128 and 2 vision blocks of width 64."""
    ids = tokenizer.get_vocab()
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids[TURN_END],
            "pad_token_id": ids[END_OF_TEXT],
        },
        vision_config={
            "depth": VISION_DEPTH,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 4,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [VISION_DEPTH - 1],
            "patch_size": CELL // 2,
            "spatial_merge_size": 2,
            "window_size": 112,
        },
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
    )


@torch.no_grad()
def initialise(model: Qwen2_5_VLForConditionalGeneration, seed: int) -> None:
    """Draw every matrix from normal(0, 1 / sqrt(fan_in)), with residual outputs scaled down by sqrt(2 x layers); biases 0, norms 1.

    The library's fixed 0.02 is far too small at this width: with it perception learned half as fast.
    """
    generator = torch.Generator().manual_seed(seed)
    residual = ("o_proj.weight", "down_proj.weight", "attn.proj.weight")
    for name, parameter in sorted(model.named_parameters()):
        if parameter.ndim == 1:
            parameter.fill_(1.0 if "norm" in name or "ln_q" in name else 0.0)
            continue
        fan_in = parameter[0].numel()
        scale = 1 / math.sqrt(fan_in)
        if name.endswith(residual):
            scale /= math.sqrt(2 * (VISION_DEPTH if "visual" in name else NUM_LAYERS))
        parameter.normal_(0, scale, generator=generator)
