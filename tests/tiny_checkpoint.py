"""The very small random model of `tests.tiny` as a folder, with a processor and a real tokenizer."""

from pathlib import Path

from transformers_groma import GromaImageProcessor, GromaProcessor
from transformers_groma.models.groma.tokenization_groma import load_legacy_tokenizer

from .tiny import VISION, tiny_model


def save_tiny_checkpoint(folder: Path, golden_dir: Path, **settings) -> Path:
    """Write the model and its processor, with the toy tokenizer of the golden data; `settings` are of its config."""
    tokenizer = load_legacy_tokenizer(golden_dir / "legacy_checkpoint")
    text_config = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 1024,
    }
    marks = {"image": "<image>", "refer_box": "<refer_box>", "ground_box": "<ground_box>", "first_proxy": "<r0>"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    model = tiny_model(text_config=text_config, **ids, **settings)
    model.save_pretrained(folder)
    size = {"height": VISION["image_size"], "width": VISION["image_size"]}
    GromaProcessor(
        GromaImageProcessor(size=size),
        tokenizer,
        num_image_tokens=model.config.num_image_tokens,
        max_regions=model.config.max_regions,
    ).save_pretrained(folder)
    return folder
