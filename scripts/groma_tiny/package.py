"""Packs a trained groma-tiny into the folder to ship: small files, the settings of its base, a card.

    python -m scripts.groma_tiny.package --trained output/groma-tiny/masks [--base hub_configs/groma-tiny] \
        [--output hub_configs/groma-tiny]

`scripts/groma_tiny/train.py` ends with this. By itself it ships a model that only got a new mask decoder.
"""

import argparse
import json
from pathlib import Path

import torch

from transformers_groma import GromaForConditionalGeneration
from transformers_groma._files import write_file

from .card import MODEL, write_tiny_card


def package(base: Path, trained: Path, output: Path) -> None:
    """Write the files to ship: weights in bfloat16 to keep git small, and a config that asks for float32.

    The mask decoder stays in float32: it is small, and was trained on its own after everything else.

    Args:
        base (`Path`): the untrained model, or the shipped one, with config, processor and tokenizer.
        trained (`Path`): the trained model, perhaps with a mask decoder.
        output (`Path`): folder to ship; may be `base`.
    """
    # Saved again, the config would note bfloat16, and the processor its old folder: these files come from the base.
    files = {path.name: path.read_bytes() for path in base.iterdir() if path.suffix != ".safetensors"}
    # Loading keeps the vision parts in float32 whatever dtype it is asked for.
    model = GromaForConditionalGeneration.from_pretrained(trained, dtype=torch.float32)
    for name, weight in model.named_parameters():
        if "mask_decoder" not in name.split("."):
            weight.data = weight.data.to(torch.bfloat16)
    model.save_pretrained(output)
    config = json.loads(files["config.json"])
    saved = json.loads((output / "config.json").read_text(encoding="utf-8"))
    if "mask_decoder_config" in saved:
        config["mask_decoder_config"] = saved["mask_decoder_config"]
    files["config.json"] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    for name, content in files.items():
        write_file(output / name, content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trained", type=Path, required=True, help="folder of the trained model")
    parser.add_argument(
        "--base", type=Path, default=MODEL, help="folder with config and processor (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=MODEL, help="folder to ship (default: %(default)s)")
    arguments = parser.parse_args()
    package(arguments.base, arguments.trained, arguments.output)
    write_tiny_card(arguments.output)
