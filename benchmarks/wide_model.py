"""A Qwen2.5-VL with the widths of the 7B model and few layers: 1.1 GB in bfloat16, as an ordinary Hugging Face folder."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoProcessor, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.initialization import no_init_weights

from ovt_ray.world import build_tiny_model

NUM_LAYERS = 2
VISION_DEPTH = 2


def build_wide_model(folder: Path) -> int:
    """Write the model with the embedded world's vocabulary and processor to `folder`, and return the bytes of its weights.

    The weights are small noise, because their values do not matter to moving them.
    """
    build_tiny_model(folder, seed=0)
    tiny = AutoConfig.from_pretrained(folder)
    config = wide_config(tiny)
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.patch_size = config.vision_config.patch_size
    with no_init_weights():
        model = Qwen2_5_VLForConditionalGeneration(config).to(torch.bfloat16)
    noise = 0.02 * torch.randn(2**20, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            repeats = -(-parameter.numel() // noise.numel())
            parameter.copy_(noise.repeat(repeats)[: parameter.numel()].view(parameter.shape))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())


def wide_config(tiny: Qwen2_5_VLConfig) -> Qwen2_5_VLConfig:
    """Return the widths of Qwen2.5-VL-7B-Instruct with the vocabulary and special ids of the tiny model."""
    ids = {name: getattr(tiny, name) for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")}
    text = tiny.text_config
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": NUM_LAYERS,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": False,
            "bos_token_id": None,
            "eos_token_id": text.eos_token_id,
            "pad_token_id": text.pad_token_id,
        },
        vision_config={
            "depth": VISION_DEPTH,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "num_heads": 16,
            "out_hidden_size": 3584,
            "fullatt_block_indexes": [VISION_DEPTH - 1],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
        },
        tie_word_embeddings=False,
        **ids,
    )
