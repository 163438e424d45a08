"""A very small GLaMM with its processor, whose answers have masks, for tests of evaluation."""

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from transformers_groma.models.glamm.chat_template_glamm import GLAMM_CHAT_TEMPLATE
from transformers_groma.models.glamm.image_processing_pil_glamm import GlammImageProcessorPil
from transformers_groma.models.glamm.modeling_glamm import GlammForConditionalGeneration
from transformers_groma.models.glamm.processing_glamm import GlammProcessor
from transformers_groma.models.glamm.tokenization_glamm import add_glamm_tokens
from transformers_groma.questions import GLAMM_QUESTIONS

from ..tiny import tiny_glamm

VOCAB_SIZE = 420  # before GLaMM's own tokens


@functools.cache
def glamm_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE that knows the words of the chat template, so that prompts are short. Don't change it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    known = [getattr(GLAMM_QUESTIONS, kind) for kind in GLAMM_QUESTIONS.kinds]
    tokenizer.train_from_iterator([*GLAMM_CHAT_TEMPLATE.splitlines(), *known], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    add_glamm_tokens(wrapped)
    return wrapped


def glamm_model(seed: int = 0, says_segments: bool = True) -> GlammForConditionalGeneration:
    """The model of `tests.tiny` with the ids of `glamm_tokenizer`; its answers are mostly `[SEG]`, or never.

    Its mask decoder is scaled, so that masks have an edge and differ between states.
    """
    tokenizer = glamm_tokenizer()
    marks = {"image": "<image>", "region": "<bbox>", "seg": "[SEG]"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    model = tiny_glamm(
        seed,
        text_config={
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": 1024,
        },
        **ids,
    )
    with torch.no_grad():
        # The norm before it makes states of length sqrt(hidden size): one direction or its opposite wins by far.
        row = torch.randn(model.config.text_config.hidden_size)
        model.lm_head.weight[ids["seg_token_id"]] = row if says_segments else 0
        model.model.prompt_projection.linear_2.weight.mul_(30)
    return model


def glamm_processor() -> GlammProcessor:
    """Its processor. Boxes fit, as in new models: the image is squared, not cropped."""
    config = glamm_model().config
    side = config.vision_config.image_size
    image_processor = GlammImageProcessorPil(
        size={"height": side, "width": side}, do_center_crop=False, grounding_size=config.grounding_image_size
    )
    return GlammProcessor(image_processor, glamm_tokenizer(), num_image_tokens=config.num_image_tokens)
