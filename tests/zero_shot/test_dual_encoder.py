"""Encoders of every family: the library's own results, each text once, and what is not a dual encoder."""

import logging

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    GemmaTokenizer,
    T5Tokenizer,
    pipeline,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from transformers_groma.zero_shot import CrossAlignmentClassifier
from transformers_groma.zero_shot.dual_encoder import DualEncoder
from transformers_groma.zero_shot.encoder_interface import context_length, logit_scale_and_bias

from .tiny_encoders import FAMILIES, TOKENIZER, build

LABELS = ["striped tile", "red ball", "wooden box", "cloud"]
TEXTS = ["a round red toy.", "a brown box made of planks.", "white and soft."]


@pytest.fixture
def clip() -> DualEncoder:
    return DualEncoder(*build("clip"))


@pytest.fixture
def calls(clip, monkeypatch) -> list[int]:
    """How many texts each call of the model had."""
    counts: list[int] = []
    encode = clip.model.get_text_features

    def counted(input_ids, attention_mask=None):
        counts.append(len(input_ids))
        return encode(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(clip.model, "get_text_features", counted)
    return counts


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "vision-text-dual-encoder"])
def test_probabilities_are_those_of_the_library(first_case, family):
    """A batch of images, here against one at a time there: within float32's rounding."""
    model, processor = build(family)
    library = pipeline(
        "zero-shot-image-classification",
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )
    classifier = CrossAlignmentClassifier(model, processor, views=None)
    for template in (None, "a small {}, {}."):
        settings = {} if template is None else {"hypothesis_template": template.replace("{}, {}", "{}")}
        expected = library(first_case.images, candidate_labels=LABELS, **settings)
        found = classifier(first_case.images, candidate_labels=LABELS, **settings)
        for one, other in zip(found, expected, strict=True):
            assert [result["label"] for result in one] == [result["label"] for result in other]
            for result, theirs in zip(one, other, strict=True):
                assert result["score"] == pytest.approx(theirs["score"], abs=1e-6)


def test_one_image_gives_one_list_as_in_the_library(first_case):
    model, processor = build("siglip")
    found = CrossAlignmentClassifier(model, processor, views=None)(first_case.images[0], ["cloud"])
    assert [set(result) for result in found] == [{"score", "label"}]
    assert 0 < found[0]["score"] < 1  # a sigmoid: one label is not certain


@pytest.mark.parametrize("family", FAMILIES)
def test_features_have_length_1_and_do_not_depend_on_the_batch(first_case, family):
    model, processor = build(family)
    encoder, single = DualEncoder(model, processor), DualEncoder(model, processor, batch_size=1)
    for found, one_by_one in (
        (encoder.encode_texts(TEXTS), single.encode_texts(TEXTS)),
        (encoder.encode_images(first_case.images), single.encode_images(first_case.images)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))
        torch.testing.assert_close(found, one_by_one, atol=2e-6, rtol=0)


@pytest.mark.parametrize("family", ["clip", "siglip", "align"])
def test_models_in_half_precision_give_float32(first_case, family):
    model, processor = build(family)
    expected = DualEncoder(model, processor).encode_images(first_case.images)
    encoder = DualEncoder(model.to(torch.bfloat16), processor)
    found = encoder.encode_images(first_case.images)
    assert found.dtype == encoder.probabilities(found).dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(len(found)))
    assert (found * expected).sum(dim=-1).min() > 0.98


def test_a_text_goes_through_the_model_once(clip, calls):
    first = clip.encode_texts([*TEXTS, TEXTS[0]])
    assert calls == [3] and torch.equal(first[0], first[3])
    again = clip.encode_texts([TEXTS[2], "fluffy edges.", TEXTS[0]])
    assert calls == [3, 1]
    assert torch.equal(again[[0, 2]], first[[2, 0]])


def test_kept_texts_are_bounded_and_the_oldest_make_room(calls, clip):
    clip.max_kept_texts = 3
    clip.encode_texts(TEXTS)
    clip.encode_texts([TEXTS[0], "fluffy edges."])  # the second of the texts goes
    calls.clear()
    clip.encode_texts([TEXTS[0], TEXTS[2], "fluffy edges."])
    assert calls == []
    clip.encode_texts([TEXTS[1]])
    assert calls == [1]
    assert clip.encode_texts([*TEXTS, "fluffy edges.", "round."]).shape == (5, 24)  # more than are kept


def test_kept_texts_are_dropped_when_training_changes_the_weights(clip, first_case):
    classifier = CrossAlignmentClassifier.from_encoder(clip, LABELS, views=None)
    before, scores = clip.encode_texts(TEXTS), classifier.classify(first_case.images)[0].scores
    optimizer = torch.optim.AdamW(clip.model.parameters(), lr=0.1)
    clip.model.train()
    clip.model.get_text_features(torch.ones(1, 4, dtype=torch.long)).pooler_output.sum().backward()
    optimizer.step()
    after = clip.encode_texts(TEXTS)
    assert not torch.allclose(before, after, atol=1e-3)
    assert not clip.model.training
    assert torch.equal(after, DualEncoder(clip.model, build("clip")[1]).encode_texts(TEXTS))
    assert classifier.classify(first_case.images)[0].scores != scores


def test_siglip_pads_to_its_own_length_whatever_its_tokenizer_says(monkeypatch):
    model, processor = build("siglip")
    seen = []
    encode = model.get_text_features
    monkeypatch.setattr(
        model, "get_text_features", lambda input_ids: seen.append(input_ids) or encode(input_ids=input_ids)
    )
    for limit in (int(1e30), 16):
        processor.tokenizer.model_max_length = limit
        DualEncoder(model, processor).encode_texts(["round.", "a " * 200])
    assert {tuple(ids.shape) for ids in seen} == {(2, 64)}
    assert torch.equal(seen[0], seen[1])


def test_siglip_reads_its_padding_as_in_training():
    """The toy tokenizer makes a mask, those of released models don't. The library's pipeline hands it on."""
    model, processor = build("siglip")
    encoder = DualEncoder(model, processor)
    inputs = processor.tokenizer(TEXTS, padding="max_length", max_length=64, return_tensors="pt")
    for names, ids in ((["input_ids"], encoder), (["input_ids", "attention_mask"], encoder.as_pipeline())):
        with torch.no_grad():
            expected = model.get_text_features(**{name: inputs[name] for name in names}).pooler_output
        torch.testing.assert_close(ids.encode_texts(TEXTS), nn.functional.normalize(expected, dim=-1))
    assert not torch.allclose(encoder.encode_texts(TEXTS), encoder.as_pipeline().encode_texts(TEXTS), atol=1e-3)
    processor.tokenizer.model_input_names = ["input_ids"]
    assert encoder.as_pipeline() is encoder


@pytest.mark.parametrize(
    ("family", "limit", "length"),
    # AltCLIP's encoder is a RoBERTa: it counts its 18 positions from behind that of the padding.
    [("clip", int(1e30), 16), ("clip", 8, 8), ("align", int(1e30), 32), ("altclip", int(1e30), 17)],
)
def test_a_text_may_be_as_long_as_model_and_tokenizer_allow(family, limit, length):
    model, processor = build(family)
    processor.tokenizer.model_max_length = limit
    assert context_length(model, processor.tokenizer) == length
    assert DualEncoder(model, processor).encode_texts(["a " * 100]).isfinite().all()


def test_a_cut_text_is_named_once(clip, caplog):
    with caplog.at_level(logging.WARNING, logger="transformers_groma"):
        clip.encode_texts(["round.", "a " * 14])
        assert caplog.messages == []
        clip.encode_texts(["round.", "a " * 15 + "b"])
        clip.encode_texts(["a " * 50])
    assert len(caplog.messages) == 1
    assert "of 18 tokens is cut to the 16 that CLIPModel reads: 'a a a" in caplog.messages[0]


def test_a_long_text_is_not_shown_whole(clip, caplog):
    with caplog.at_level(logging.WARNING, logger="transformers_groma"):
        clip.encode_texts(["round " * 500])
    assert len(caplog.messages[0]) < 250 and "round roun…'" in caplog.messages[0]


def test_logits_have_the_scale_and_bias_of_the_encoder():
    siglip, align = build("siglip")[0], build("align")[0]
    assert logit_scale_and_bias(siglip) == pytest.approx((7.389056, -1.5))
    assert logit_scale_and_bias(align) == pytest.approx((10.0, 0.0))
    siglip.max_log_logit_scale = 0.5  # as AIMv2 has it
    assert logit_scale_and_bias(siglip)[0] == pytest.approx(1.648721)


def test_models_that_return_features_themselves_are_understood(clip, first_case, monkeypatch):
    expected = clip.encode_images(first_case.images)
    encode = clip.model.get_image_features
    monkeypatch.setattr(
        clip.model, "get_image_features", lambda pixel_values: encode(pixel_values=pixel_values).pooler_output
    )
    assert torch.equal(clip.encode_images(first_case.images), expected)


def test_wrappers_that_name_no_input_get_all_of_them(clip, first_case, monkeypatch):
    expected = clip.encode_texts(TEXTS)
    clip.forget_texts()
    encode = clip.model.get_text_features
    monkeypatch.setattr(clip.model, "get_text_features", lambda *args, **kwargs: encode(*args, **kwargs))
    assert torch.equal(clip.encode_texts(TEXTS), expected)


@pytest.mark.parametrize(
    ("model", "lacking"),
    [
        (nn.Linear(1, 1), "get_image_features"),
        (BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)), "get_image_features"),
        (Dinov2Model(Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)), "get_image_features"),
        ("openai/clip-vit-base-patch32", "get_image_features"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_is_not_a_dual_encoder_is_named(model, lacking):
    message = f"A {type(model).__name__} is not a dual encoder, as it has no `{lacking}`"
    with pytest.raises(ValueError, match=message):
        DualEncoder(model, build("clip")[1])
    with pytest.raises(ValueError, match=message):
        CrossAlignmentClassifier(model, None, ["cat"])


def test_a_model_without_a_logit_scale_is_named(monkeypatch):
    model, processor = build("clip")
    del model.logit_scale
    with pytest.raises(ValueError, match="A CLIPModel is not a dual encoder, as it has no `logit_scale`"):
        DualEncoder(model, processor)


@pytest.mark.parametrize("name", ["hub_configs/groma-tiny", "hub_configs/groma-7b"])
def test_a_groma_is_refused_before_its_weights_are_read(name):
    """The 7B folder has no weights: the error is about what the model is."""
    with pytest.raises(ValueError, match=r"A GromaModel is not a dual encoder, as it has no `get_text_features`"):
        DualEncoder.from_pretrained(name, device="cpu")


@pytest.mark.parametrize("features", [torch.zeros(1, 5, 8), None])
def test_features_that_are_not_one_vector_an_image_are_refused(clip, first_case, monkeypatch, features):
    """Those of BLIP-2 and FLAVA: one for each query or patch."""
    output = BaseModelOutputWithPooling(pooler_output=features)
    monkeypatch.setattr(clip.model, "get_image_features", lambda pixel_values: output)
    with pytest.raises(ValueError, match=r"CLIPModel gives features of .* for images, not one vector each"):
        clip.encode_images(first_case.images)


def test_features_of_different_widths_are_refused(clip, first_case, monkeypatch):
    clip.encode_texts(TEXTS)
    monkeypatch.setattr(clip.model, "get_image_features", lambda pixel_values: torch.ones(len(pixel_values), 8))
    with pytest.raises(ValueError, match="features of 24 and 8 numbers to images and texts, which cannot be compared"):
        clip.encode_images(first_case.images)


@pytest.mark.parametrize("half", ["image_processor", "tokenizer"])
def test_a_processor_without_a_half_is_named(half):
    model, processor = build("clip")
    with pytest.raises(
        ValueError, match=r"is a \w+ without `(image_processor|tokenizer)`. Pass the model's processor"
    ):
        DualEncoder(model, getattr(processor, half))
    with pytest.raises(ValueError, match="is a NoneType without `image_processor`"):
        DualEncoder(model, None)


def test_a_tokenizer_without_padding_is_refused():
    model, processor = build("clip")
    processor.tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    processor.tokenizer.pad_token = None
    with pytest.raises(ValueError, match=r"has no padding token, .*: set `tokenizer.pad_token`"):
        DualEncoder(model, processor)


def test_features_that_are_not_finite_name_text_and_image(clip, first_case):
    with torch.no_grad():
        clip.model.text_projection.weight[0, 0] = torch.nan
        clip.model.visual_projection.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match="CLIPModel gives features that are NaN or infinite for the text 'round.'"):
        clip.encode_texts(["round."])
    classifier = CrossAlignmentClassifier.from_encoder(clip, LABELS)
    with pytest.raises(ValueError, match=r"NaN or infinite for image 1\. Check the weights of the model\."):
        clip.encode_images(first_case.images[:1], name=lambda index: f"image {index + 1}")
    with pytest.raises(ValueError, match="for the text"):
        classifier.classify(first_case.images)


def test_features_of_zeros_are_refused(clip, first_case, monkeypatch):
    """BLIP's small numbers are zeros in half precision: all labels would have one score."""
    clip.model.half()
    monkeypatch.setattr(clip.model, "get_image_features", lambda pixel_values: torch.zeros(len(pixel_values), 24))
    with pytest.raises(ValueError, match=r"features that are all zero for image 0\. .* `dtype='float32'`"):
        clip.encode_images(first_case.images)


@pytest.mark.parametrize("scale", [torch.nan, 200.0])
def test_a_logit_scale_without_probabilities_is_refused(clip, scale):
    with torch.no_grad():
        clip.model.logit_scale.fill_(scale)
    with pytest.raises(ValueError, match="The logit scale and bias of CLIPModel are (nan|inf) and 0.0"):
        clip.probabilities(torch.zeros(1, 2))


@pytest.mark.parametrize("family", ["clip", "align"])
def test_a_model_without_weights_in_memory_is_refused(family):
    model, processor = build(family)
    with pytest.raises(ValueError, match="has no weights in memory: it is on the device `meta`"):
        DualEncoder(model.to("meta"), processor)


def test_texts_of_another_adapter_are_encoded_again(clip):
    peft = pytest.importorskip("peft")
    before = clip.encode_texts(TEXTS)
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2, init_lora_weights=False)
    clip.model = peft.get_peft_model(clip.model, config)
    adapted = clip.encode_texts(TEXTS)
    assert not torch.allclose(adapted, before, atol=1e-3)
    with clip.model.disable_adapter():
        assert torch.equal(clip.encode_texts(TEXTS), before)
    assert torch.equal(clip.encode_texts(TEXTS), adapted)
    clip.model.merge_adapter()
    torch.testing.assert_close(clip.encode_texts(TEXTS), adapted, atol=1e-5, rtol=0)


def test_calls_as_the_pipeline_encode_a_text_once(first_case, monkeypatch):
    """Of a SigLIP whose tokenizer makes a mask, too: its features with the mask are kept apart."""
    model, processor = build("siglip")
    counts = []
    encode = model.get_text_features
    monkeypatch.setattr(
        model,
        "get_text_features",
        lambda input_ids, attention_mask=None: counts.append(len(input_ids)) or encode(input_ids, attention_mask),
    )
    classifier = CrossAlignmentClassifier(model, processor, views=None)
    first = classifier(first_case.images[0], candidate_labels=LABELS)
    assert classifier(first_case.images[0], candidate_labels=LABELS) == first
    assert counts == [4]
    classifier.encoder.forget_texts()
    classifier(first_case.images[0], candidate_labels=LABELS)
    assert counts == [4, 4]


def test_texts_may_come_from_a_generator(clip):
    assert torch.equal(clip.encode_texts(text for text in TEXTS), clip.encode_texts(TEXTS))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1000.0])
def test_a_logit_scale_that_is_not_finite_is_refused_at_once(value):
    model, processor = build("clip")
    with torch.no_grad():
        model.logit_scale.fill_(value)
    with pytest.raises(ValueError, match=r"The logit scale and bias of CLIPModel are (nan|inf) and 0\.0, which"):
        DualEncoder(model, processor)


@pytest.mark.parametrize("tokenizer_class", [BertTokenizer, CLIPTokenizer, GemmaTokenizer, T5Tokenizer])
def test_a_tokenizer_without_words_is_refused(tokenizer_class):
    """The library makes one where its files are missing."""
    model, processor = build("clip")
    processor.tokenizer = tokenizer_class()
    with pytest.raises(ValueError, match="The tokenizer of this CLIPModel knows no words: its files are missing"):
        DualEncoder(model, processor)


@pytest.mark.parametrize("texts", ["a text", [""], [" "], ["round.", 3], [None]])
def test_texts_are_texts(clip, texts):
    with pytest.raises(ValueError, match="`texts` must be"):
        clip.encode_texts(texts)


@pytest.mark.parametrize("size", [0, -3, 2.5, True, None])
def test_sizes_are_positive(size):
    model, processor = build("clip")
    for name in ("batch_size", "max_kept_texts"):
        with pytest.raises(ValueError, match=f"`{name}` must be a positive integer, got {size!r}"):
            DualEncoder(model, processor, **{name: size})


def test_images_are_asked_for_as_they_are_needed(clip):
    """A generator of views holds the batch that the model works on and the next one in memory, no more."""
    ahead = []
    prepare, clip.batch_size = clip.image_processor, 2

    def images():
        for number in range(9):
            ahead.append(number)
            yield Image.new("RGB", (8, 8), (20 * number, 0, 0))

    seen = []

    def watched(images, **kwargs):
        seen.append(len(ahead))
        return prepare(images=images, **kwargs)

    clip.image_processor = watched
    assert len(clip.encode_images(images())) == 9
    assert len(seen) == 5
    assert all(count <= 2 * number for number, count in enumerate(seen, start=2))
