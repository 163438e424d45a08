"""Benchmark: region slots without a region, and a chat's second question, on a random model of middle size.

    python benchmarks/bench_unused_slots.py [--part slots|turns] [--rounds 4] [--regions 12] [--new-tokens 64]

The model has a language model of some 0.3 B parameters, a vision encoder of DINOv2-small's size, 300 proposals and
100 region slots, of which an image uses 12. All ratios are from this run on this machine:

- slots: the model with `fixed_slots=True`, which reads all slots, over the model as it is: the prefill, an answer of
  64 tokens with its prefill (the image was looked at before), and the memory of the prompt's cache;
- turns: the first token of a fresh chat about the image over the first token of its second question, of words alone
  and of one that points at a region that is new.

Rounds take turns, so that a slow moment of the machine hits all; the best of each counts. What is compared gives the
same ids.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench_inference import make_images
from machine import machine
from measuring import cache_bytes, print_result
from torch import Tensor
from tqdm import tqdm

from transformers_groma import GromaConfig, GromaForConditionalGeneration, GromaProcessor, ImageGroundingPipeline
from transformers_groma.models.groma.tokenization_groma import add_groma_tokens

TINY = Path(__file__).parents[1] / "hub_configs" / "groma-tiny"
VISION = {"model_type": "dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
TEXT = {
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}


def middle_size() -> tuple[GromaForConditionalGeneration, GromaProcessor]:
    """The random model, and a processor with groma-tiny's words."""
    processor = GromaProcessor.from_pretrained(TINY)
    tokenizer = processor.tokenizer
    add_groma_tokens(tokenizer, 100)
    marks = {"image": "<image>", "refer_box": "<refer_box>", "ground_box": "<ground_box>", "first_proxy": "<r0>"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    torch.manual_seed(0)
    vision = {**VISION, "image_size": 448, "patch_size": 14}
    text = {**TEXT, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = GromaConfig(vision_config=vision, text_config=text, max_regions=100, **ids)
    model = GromaForConditionalGeneration(config).eval()
    # The heads of a fresh proposer give all queries the same score and the same box.
    with torch.no_grad():
        for head in model.model.region_proposer.bbox_embed:
            head.layers[-1].weight.normal_(std=0.1)
        for head in (*model.model.region_proposer.class_embed_coco, *model.model.region_proposer.class_embed_sa1b):
            head.weight.normal_(std=0.5)
    image_processor = type(processor.image_processor)(size={"height": 448, "width": 448})
    processor = GromaProcessor(
        image_processor,
        tokenizer,
        chat_template=processor.chat_template,
        num_image_tokens=config.num_image_tokens,
        max_regions=100,
    )
    return model, processor


def keep_regions(model: GromaForConditionalGeneration, pixel_values: Tensor, number: int) -> None:
    """Set the thresholds so that this many regions of an image stay."""
    scores = model.detect(pixel_values).proposals.scores[0].sort(descending=True).values
    model.config.nms_threshold = 1.0
    model.config.box_score_threshold = float(scores[number - 1] + scores[number]) / 2


def best_of(functions: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Fewest seconds of each function, which measures itself; they take turns, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in tqdm(range(rounds + 1), desc="rounds", unit="round"):
        for name, function in functions.items():
            seconds = function()
            if number:
                times[name].append(seconds)
    return {name: min(values) for name, values in times.items()}


def timed(function: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return seconds


def measure_slots(model, processor, image, new_tokens: int, rounds: int) -> tuple[dict, dict]:
    """Ratios and seconds of the model with all slots over the model as it is."""
    messages = [
        {"role": "system", "content": "You answer questions about images."},
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What is there?"}]},
    ]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True, return_tensors="pt"
    )
    features = model.get_image_features(inputs.pop("pixel_values"), return_dict=True)
    used = int(features.region_mask.sum())
    print(f"{inputs['input_ids'].shape[1]} tokens, {used} of {model.config.max_regions} slots used")
    seen = {**inputs, "mm_encoder_outputs": {"image": features}}
    settings = {"do_sample": False, "return_dict_in_generate": True, "max_new_tokens": new_tokens}

    def answer(**how):
        return model.generate(**seen, **settings, min_new_tokens=new_tokens, **how)

    assert torch.equal(answer().sequences, answer(fixed_slots=True).sequences)
    held, held_fixed = (
        cache_bytes(model(**seen, logits_to_keep=1, fixed_slots=fixed).past_key_values) for fixed in (False, True)
    )
    seconds = best_of(
        {
            "prefill": timed(lambda: model(**seen, logits_to_keep=1)),
            "prefill_fixed": timed(lambda: model(**seen, logits_to_keep=1, fixed_slots=True)),
            "answer": timed(answer),
            "answer_fixed": timed(lambda: answer(fixed_slots=True)),
        },
        rounds,
    )
    ratios = {
        "prefill": seconds["prefill_fixed"] / seconds["prefill"],
        f"answer_of_{new_tokens}_tokens": seconds["answer_fixed"] / seconds["answer"],
        "cache_of_the_prompt": held_fixed / held,
    }
    return ratios, seconds


def measure_turns(model, processor, image, rounds: int) -> tuple[dict, dict]:
    """Ratios and seconds of a fresh chat over the second question of a chat, to the first token."""
    pipe = ImageGroundingPipeline(model, processor=processor, task="image-grounding")
    generated = {"max_new_tokens": 1, "generate_kwargs": {"min_new_tokens": 1}}
    width, height = image.size

    def second(boxes) -> float:
        chat = pipe.chat(image)
        chat.ask("What is there?", **generated)
        return timed(lambda: chat.ask("And what is this?", boxes=boxes, **generated))()

    new = [[width * 0.1, height * 0.2, width * 0.37, height * 0.71]]
    seconds = best_of(
        {
            "fresh": timed(lambda: pipe.chat(image).ask("What is there?", **generated)),
            "fresh_with_a_region": timed(lambda: pipe.chat(image).ask("What is this?", boxes=new, **generated)),
            "second_question": lambda: second(None),
            "second_question_new_region": lambda: second(new),
        },
        rounds,
    )
    ratios = {
        "second_question": seconds["fresh"] / seconds["second_question"],
        "second_question_new_region": seconds["fresh"] / seconds["second_question_new_region"],
    }
    return ratios, seconds


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("slots", "turns"), help="only this part")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--regions", type=int, default=12)
    parser.add_argument("--new-tokens", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(machine())
    model, processor = middle_size()
    size = sum(weight.numel() for weight in model.model.language_model.parameters())
    print(f"language model of {size / 1e9:.2f} B parameters")
    (image,) = make_images(1)
    keep_regions(
        model, processor.image_processor(images=image, return_tensors="pt")["pixel_values"], arguments.regions
    )

    ratios: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for part, measure in (
        ("slots", lambda: measure_slots(model, processor, image, arguments.new_tokens, arguments.rounds)),
        ("turns", lambda: measure_turns(model, processor, image, arguments.rounds)),
    ):
        if arguments.part in (None, part):
            found_ratios, found_seconds = measure()
            for name, value in found_seconds.items():
                print(f"  {name:28s} {1000 * value:9.1f} ms")
            for name, ratio in found_ratios.items():
                print(f"  {name:28s} {ratio:9.2f}x", flush=True)
            ratios, seconds = {**ratios, **found_ratios}, {**seconds, **found_seconds}
    print_result("unused_slots", ratios, seconds)


if __name__ == "__main__":
    main()
