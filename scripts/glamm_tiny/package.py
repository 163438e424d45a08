"""Packs a trained glamm-tiny into the folder to ship: small files, the settings of its base.

    python -m scripts.glamm_tiny.package --base output/glamm-tiny/base --trained output/glamm-tiny/glamm \
        [--output hub_configs/glamm-tiny]

`scripts/glamm_tiny/train.py` ends with this.
"""

import argparse
from pathlib import Path

import torch

from transformers_groma._files import write_file
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration

from .card import MODEL, write_tiny_card

# What outlines depend on stays in float32; it is small.
PRECISE_PARTS = ("mask_decoder", "prompt_projection")


def package(base: Path, trained: Path, output: Path) -> None:
    """Write the files to ship: weights in bfloat16 to keep git small, and a config that asks for float32.

    Args:
        base (`Path`): the model before the last step, with config, processor and tokenizer.
        trained (`Path`): the trained model.
        output (`Path`): folder to ship.
    """
    # Saved again, the config would note bfloat16, and the processor its old folder: these files come from the base.
    files = {path.name: path.read_bytes() for path in base.iterdir() if path.suffix != ".safetensors"}
    model = GlammForConditionalGeneration.from_pretrained(trained, dtype=torch.float32)
    for name, weight in model.named_parameters():
        if not set(PRECISE_PARTS) & set(name.split(".")):
            weight.data = weight.data.to(torch.bfloat16)
    model.save_pretrained(output)
    for name, content in files.items():
        write_file(output / name, content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="folder with config and processor")
    parser.add_argument("--trained", type=Path, required=True, help="folder of the trained model")
    parser.add_argument("--output", type=Path, default=MODEL, help="folder to ship (default: %(default)s)")
    arguments = parser.parse_args()
    package(arguments.base, arguments.trained, arguments.output)
    write_tiny_card(arguments.output)
