"""Benchmark: groma-tiny's perception, prefill and generation, in batches and against the original's data flow.

    python benchmarks/bench_inference.py [--batch-size 8] [--new-tokens 16] [--repeats 9]

Three ratios, all from this run on this machine:

- batch against single: seconds of N single `generate` calls / seconds of one call with a batch of N;
- ours against the original, image to first-token logits: seconds of a plain transcription of the original / seconds of
  ours. The transcription has the same weights and the original's data flow: Python loops over images; NMS, region
  features and token sequence for every image on its own; prompts of different lengths padded afterwards. Its region
  encoder is written down as in the original, with ROIAlign in plain torch (`grid_sample` and averages) in place of
  mmcv's compiled one; linear layers are torch's own. "same operators" is the same flow with our layers and our region
  encoder called for every image, so that only the flow differs;
- ours against earlier: the same forward pass, and an answer to one row, as they were before (`plain_ways.py`).
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import print_result, seconds_of
from PIL import Image, ImageDraw
from plain_region_encoder import PlainRegionEncoder
from plain_ways import in_plain_ways, plain_ways
from torch import Tensor

from transformers_groma import GromaForConditionalGeneration
from transformers_groma.boxes import box_cxcywh_to_xyxy, nms
from transformers_groma.loading import load_model

MODEL = Path(__file__).parents[1] / "hub_configs" / "groma-tiny"


def make_images(number: int) -> list[Image.Image]:
    """Images of random rectangles, no two alike."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for _ in range(number):
        image = Image.new("RGB", (320, 240), "white")
        draw = ImageDraw.Draw(image)
        for left, top, width, height, *color in torch.randint(0, 255, (12, 7), generator=generator).tolist():
            draw.rectangle((left, top, left + width // 3, top + height // 3), fill=tuple(color))
        images.append(image)
    return images


class OriginalFlow:
    """The original's `GromaModel.forward`, written down plainly: image to first-token logits."""

    def __init__(self, model: GromaForConditionalGeneration, region_encoder: Callable[..., Tensor]) -> None:
        self.groma, self.lm_head, self.config = model.model, model.lm_head, model.config
        self.region_encoder = region_encoder

    def regions_of(self, boxes: Tensor, scores: Tensor) -> Tensor:
        kept = nms(
            box_cxcywh_to_xyxy(boxes),
            scores,
            self.config.nms_threshold,
            self.config.box_score_threshold,
            self.config.max_regions,
        )
        return boxes[kept] if len(kept) else boxes[scores.argmax()][None]

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        groma, config = self.groma, self.config
        vision, proposals = groma.detect(pixel_values)
        image_tokens = groma.multi_modal_projector(
            groma.feature_map(vision.hidden_states[config.vision_feature_layer])
        )
        maps = [groma.feature_map(vision.hidden_states[i]) for i in config.region_encoder_config.vision_feature_layers]
        embed = groma.get_input_embeddings()
        sequences = []
        for index, ids in enumerate(input_ids):
            boxes = self.regions_of(proposals.pred_boxes[index], proposals.scores[index])
            mask = torch.ones(1, len(boxes), dtype=torch.bool)
            region_tokens = self.region_encoder([level[index : index + 1] for level in maps], boxes[None], mask)[0]
            ids = ids[attention_mask[index].bool()]
            start = int((ids == config.image_token_id).nonzero()[0])
            end = int((ids == config.image_token_id).nonzero()[-1]) + 1
            first_slot = start + config.num_image_tokens
            first_proxy = int((ids == config.first_proxy_token_id).nonzero()[0])
            pieces = [embed(ids[:start]), image_tokens[index], embed(ids[first_slot:first_proxy])]
            for region in range(len(boxes)):
                pieces += [embed(torch.tensor([config.first_proxy_token_id + region])), region_tokens[region][None]]
            sequences.append(torch.cat([*pieces, embed(ids[end:])]))
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        padded = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
        hidden_states = groma.language_model(inputs_embeds=padded, attention_mask=mask).last_hidden_state
        return self.lm_head(hidden_states[torch.arange(len(lengths)), lengths - 1])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(2)

    model, processor = load_model(str(MODEL), "cpu")
    number = arguments.batch_size
    inputs = processor(images=make_images(number), text=["What is there?"] * number, return_tensors="pt", padding=True)
    singles = [{name: value[index : index + 1] for name, value in inputs.items()} for index in range(number)]
    settings = {"max_new_tokens": arguments.new_tokens, "min_new_tokens": arguments.new_tokens, "do_sample": False}
    original = in_plain_ways(OriginalFlow(model, PlainRegionEncoder(model.model.region_encoder)))
    same_operators = OriginalFlow(model, model.model.region_encoder)

    def first_logits(case: dict[str, Tensor]) -> Tensor:
        return model(**case, logits_to_keep=1).logits[:, -1]

    earlier = in_plain_ways(first_logits)
    # What is compared gives the same answer.
    for flow in (original, same_operators):
        torch.testing.assert_close(first_logits(inputs), flow(**inputs), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(first_logits(inputs), earlier(inputs), atol=1e-3, rtol=1e-3)
    answers = model.generate(**inputs, **settings)
    with plain_ways():
        assert torch.equal(answers, model.generate(**inputs, **settings)), "answers differ from the earlier ones"

    features = model.get_image_features(inputs["pixel_values"], return_dict=True)
    prompt = {name: value for name, value in inputs.items() if name != "pixel_values"}
    decode = {**settings, "max_new_tokens": 1, "min_new_tokens": 1}
    seconds = seconds_of(
        {
            "perceive": lambda: model.get_image_features(inputs["pixel_values"]),
            "perceive_and_prefill": lambda: first_logits(inputs),
            "generate_one_token": lambda: model.generate(mm_encoder_outputs={"image": features}, **prompt, **decode),
            "generate_batch": lambda: model.generate(**inputs, **settings),
            "generate_single_calls": lambda: [model.generate(**single, **settings) for single in singles],
            "original_batch": lambda: original(**inputs),
            "same_operators_batch": lambda: same_operators(**inputs),
            "ours_single": lambda: first_logits(singles[0]),
            "original_single": lambda: original(**singles[0]),
            "same_operators_single": lambda: same_operators(**singles[0]),
            "earlier_batch": lambda: earlier(inputs),
            "earlier_single": lambda: earlier(singles[0]),
            "answer_single": lambda: model.generate(**singles[0], **settings),
            "earlier_answer_single": in_plain_ways(lambda: model.generate(**singles[0], **settings)),
        },
        arguments.repeats,
    )
    seconds["prefill"] = seconds["perceive_and_prefill"] - seconds["perceive"]
    seconds["decode_per_token"] = (seconds["generate_batch"] - seconds["generate_one_token"] - seconds["perceive"]) / (
        arguments.new_tokens - 1
    )
    ratios = {
        f"batch_of_{number}_vs_single_calls": seconds["generate_single_calls"] / seconds["generate_batch"],
        f"ours_vs_original_batch_{number}": seconds["original_batch"] / seconds["perceive_and_prefill"],
        "ours_vs_original_batch_1": seconds["original_single"] / seconds["ours_single"],
        f"ours_vs_same_operators_batch_{number}": seconds["same_operators_batch"] / seconds["perceive_and_prefill"],
        "ours_vs_same_operators_batch_1": seconds["same_operators_single"] / seconds["ours_single"],
        f"ours_vs_earlier_batch_{number}": seconds["earlier_batch"] / seconds["perceive_and_prefill"],
        "ours_vs_earlier_batch_1": seconds["earlier_single"] / seconds["ours_single"],
        "ours_vs_earlier_answer_to_one_row": seconds["earlier_answer_single"] / seconds["answer_single"],
    }
    print(f"groma-tiny, batch of {number}, {arguments.new_tokens} new tokens, best of {arguments.repeats} rounds")
    regions = features.region_mask.sum(dim=1)
    print(f"regions an image: {int(regions.min())} to {int(regions.max())} of {model.config.max_regions} slots")
    for name in ("perceive", "prefill", "decode_per_token", "generate_batch", "generate_single_calls"):
        print(f"  {name:24s} {1000 * seconds[name]:9.1f} ms")
    for name, ratio in ratios.items():
        print(f"  {name:40s} {ratio:5.2f}x")
    print_result("inference", ratios, seconds)


if __name__ == "__main__":
    main()
