"""Reads golden cases of the original Groma and turns its prompts into ours."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from transformers_groma import GromaForConditionalGeneration

# Token ids of the toy tokenizer: 320 pieces and Groma's tokens after them.
PAD, IMAGE, REGION, REFER_BOX, GROUND_BOX, REFER_FEATURE, FIRST_PROXY = 320, 328, 329, 330, 331, 332, 334
NUM_IMAGE_TOKENS, MAX_REGIONS = 256, 100


def load_case(folder: Path, name: str) -> tuple[dict, dict[str, Tensor]]:
    """Notes and tensors of `case_<name>`."""
    notes = json.loads((folder / f"case_{name}.json").read_text())
    return notes, load_file(folder / f"case_{name}.safetensors")


def golden_pixels(folder: Path) -> Tensor:
    """Both input images of all cases, `(2, 3, 448, 448)`."""
    return (load_file(folder / "case_inputs.safetensors")["images_uint8"].float() - 128) / 64


def pad_boxes(boxes: list[Tensor]) -> Tensor:
    """Boxes of several images as `(B, n, 4)`, padded with zeros."""
    return torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True)


def expand_prompt(ids: list[int], num_slots: int = MAX_REGIONS) -> list[int]:
    """An original prompt with fixed slots: `<image>` is 256 placeholders, `<region>` the slots, `<refer_feat>` one."""
    slots = [token for slot in range(num_slots) for token in (FIRST_PROXY + slot, IMAGE)]
    replacements = {IMAGE: [IMAGE] * NUM_IMAGE_TOKENS, REGION: slots, REFER_FEATURE: [IMAGE]}
    return [new for token in ids for new in replacements.get(token, [token])]


def expand_labels(ids: list[int], labels: list[int]) -> list[int]:
    """Labels of `expand_prompt(ids)`; nothing is predicted inside the image and the slots."""
    expanded = []
    for token, label in zip(ids, labels, strict=True):
        expanded += [label] if token not in (IMAGE, REGION) else [-100] * len(expand_prompt([token]))
    return expanded


def expand_batch(ids: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
    """An original batch, right-padded, as inputs of our model."""
    rows = [row[row != PAD].tolist() for row in ids]
    expanded = [torch.tensor(expand_prompt(row)) for row in rows]
    inputs = {
        "input_ids": torch.nn.utils.rnn.pad_sequence(expanded, batch_first=True, padding_value=PAD),
        "attention_mask": torch.nn.utils.rnn.pad_sequence(
            [torch.ones_like(row) for row in expanded], batch_first=True
        ),
    }
    if labels is not None:
        rows = [
            torch.tensor(expand_labels(row, label[: len(row)].tolist()))
            for row, label in zip(rows, labels, strict=True)
        ]
        inputs["labels"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    return inputs


def check_greedy_generation(model: GromaForConditionalGeneration, folder: Path, run: str, atol: float) -> None:
    """From pixels to words on the model's device: ids, logits and regions of a run of the original's `generate`."""
    notes, golden = load_case(folder, "generate")
    inputs = {**expand_batch(golden[f"{run}.input_ids"]), "pixel_values": golden_pixels(folder)[:1]}
    if run == "refer":
        inputs["refer_boxes"] = golden["refer.refer_boxes"][None]
    output = model.generate(
        **{name: value.to(model.device) for name, value in inputs.items()},
        max_new_tokens=8,
        min_new_tokens=8,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert output.sequences[0, inputs["input_ids"].shape[1] :].tolist() == notes["runs"][run]["new_ids"]
    assert_close(torch.cat(output.logits).cpu(), golden[f"{run}.step_logits"], atol=atol, rtol=0)
    boxes = golden[f"{run}.pred_boxes"]
    assert_close(output.region_boxes[0, : len(boxes)].cpu(), boxes, atol=1e-4, rtol=0)
    assert output.region_mask[0].sum() == len(boxes)
