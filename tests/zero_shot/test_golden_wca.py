"""Parity with the released code: scores from embeddings, embeddings from pixels and ids, pixels from image files."""

import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from transformers_groma.zero_shot import CrossAlignmentClassifier
from transformers_groma.zero_shot.released_protocol import repeated_accuracy, scores_of_draws
from transformers_groma.zero_shot.scores import (
    description_weights,
    paper_scores,
    released_scores,
    similarity_matrix,
    view_weights,
    weighted_sum,
)

# The tolerances of the case's README: e^4 magnifies the rounding of similarities.
SCORING, ENCODING = {"atol": 5e-6, "rtol": 0}, {"atol": 1e-5, "rtol": 0}


def padded(rows: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Rows of several lengths as one tensor, filled with zeros."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def test_scores_follow_from_embeddings(golden_case):
    """Level 1: no encoder; each intermediate result from the golden ones before it."""
    golden, notes = golden_case.tensors, golden_case.notes
    similarities = torch.einsum("bnd,bd->bn", golden["patch_embeds"], golden["image_embeds"])
    assert_close(similarities, golden["patch_similarity"], **SCORING)
    of_descriptions = torch.einsum("cmd,cd->cm", golden["desc_embeds"], golden["label_embeds"])
    is_padding = ~golden["desc_mask"]
    assert_close(of_descriptions.masked_fill(is_padding, 0), golden["desc_similarity"], **SCORING)
    text_weights = description_weights(of_descriptions, notes["text_temperature_multiplier"], is_padding)
    assert_close(text_weights, golden["desc_weights"], **SCORING)
    assert (text_weights[is_padding] == 0).all()
    labels = weighted_sum(golden["desc_embeds"], text_weights)
    assert_close(normalize(labels, dim=-1), golden["class_embeds"], **SCORING)
    assert_close(labels.norm(dim=-1), golden["pooled_desc_norm"], **SCORING)
    assert_close(released_scores(golden["image_embeds"], labels), golden["whole_image_logits"], **SCORING)
    for run, drawn in enumerate(golden["sample_indices"]):
        weights = view_weights(similarities[:, drawn], notes["image_temperature_multiplier"])
        assert_close(weights, golden["patch_weights"][run], **SCORING)
        images = weighted_sum(golden["patch_embeds"][:, drawn], weights)
        assert_close(normalize(images, dim=-1), golden["pooled_image_embeds"][run], **SCORING)
        assert_close(images.norm(dim=-1), golden["pooled_patch_norm"][run], **SCORING)
        assert_close(released_scores(images, labels), golden["wca_logits"][run], **SCORING)
        assert_close(paper_scores(images, labels), golden["paper_scores"][run], **SCORING)


def test_the_paper_score_is_the_weighted_sum_of_the_matrix(golden_case):
    golden = golden_case.tensors
    matrix = similarity_matrix(golden["patch_embeds"], golden["desc_embeds"])
    assert_close(matrix.masked_fill(~golden["desc_mask"], 0), golden["similarity_matrix"], **SCORING)
    for run, drawn in enumerate(golden["sample_indices"]):
        weights = golden["patch_weights"][run]
        summed = torch.einsum("bncm,bn,cm->bc", matrix[:, drawn], weights, golden["desc_weights"])
        assert_close(summed, golden["paper_scores"][run], **SCORING)


def test_texts_become_the_same_ids_and_embeddings(golden_case):
    """Level 2, texts: the original pads with 0 to the full context and passes no mask, we pad to the longest text."""
    golden, tokenizer = golden_case.tensors, golden_case.encoder.tokenizer
    texts = golden_case.classifier().texts
    anchors = [f"a photo of a {label.replace('_', ' ')}." for label in golden_case.labels]
    settings = {"padding": "max_length", "truncation": True, "max_length": golden_case.notes["context_length"]}
    assert tokenizer(anchors, **settings)["input_ids"] == golden["label_input_ids"].tolist()
    for index, described in enumerate(texts.descriptions):
        ids = golden["desc_input_ids"][index][golden["desc_mask"][index]]
        assert tokenizer(list(described), **settings)["input_ids"] == ids.tolist()
    assert_close(texts.anchors, golden["label_embeds"], **ENCODING)
    assert_close(padded(texts.features), golden["desc_embeds"], **ENCODING)
    assert_close(padded(texts.weights), golden["desc_weights"], **ENCODING)
    assert_close(normalize(texts.pooled, dim=-1), golden["class_embeds"], **ENCODING)
    assert_close(texts.pooled.norm(dim=-1), golden["pooled_desc_norm"], **ENCODING)


def test_pixels_become_the_same_embeddings(golden_case):
    """Level 2, images: from the golden pixel values."""
    golden, model = golden_case.tensors, golden_case.encoder.model
    with torch.no_grad():
        features = model.get_image_features(golden["pixel_values"].flatten(0, 1)).pooler_output
    features = normalize(features, dim=-1).unflatten(0, golden["pixel_values"].shape[:2])
    assert_close(features[:, 0], golden["image_embeds"], **ENCODING)
    assert_close(features[:, 1:], golden["patch_embeds"], **ENCODING)


def test_image_files_become_the_same_pixels(golden_case):
    """Level 3: exactly."""
    golden, processor = golden_case.tensors, golden_case.encoder.image_processor
    for index, (image, views) in enumerate(zip(golden_case.images, golden_case.views, strict=True)):
        crops = [image, *(image.crop(box) for box in views.xyxy.tolist())]
        assert torch.equal(processor(images=crops, return_tensors="pt")["pixel_values"], golden["pixel_values"][index])
    assert_close(golden_case.features.whole, golden["image_embeds"], **ENCODING)
    assert_close(golden_case.features.views, golden["patch_embeds"], **ENCODING)
    assert_close(golden_case.features.similarities, golden["patch_similarity"], **ENCODING)


def test_image_files_and_texts_become_the_same_scores(golden_case):
    """From files to the protocol's accuracy, by what a user calls."""
    golden, notes = golden_case.tensors, golden_case.notes
    classifier, features = golden_case.classifier(), golden_case.features
    for score, name, best in (("released", "wca_logits", "pred_wca"), ("paper", "paper_scores", "pred_paper")):
        scores = scores_of_draws(
            features, golden["sample_indices"], classifier.texts, classifier.image_temperature, score
        )
        assert_close(scores, golden[name], **ENCODING)
        assert scores.argmax(dim=-1).tolist() == notes[best]
    accuracy = repeated_accuracy(golden["wca_logits"], torch.tensor(notes["labels"]))
    assert [100 * share for share in accuracy.of_repeats] == notes["wca_accuracy_per_run"]
    assert 100 * accuracy.mean == notes["accuracy_percent"]["ours"]


def test_the_whole_image_alone_is_scored_by_weighted_texts(golden_case):
    classifier = golden_case.classifier(views=None, score="released")
    scores = classifier.scores(classifier.encode(golden_case.images))
    assert_close(scores, golden_case.tensors["whole_image_logits"], **ENCODING)


def test_probabilities_are_those_that_the_pipeline_gave(golden_case):
    classifier = CrossAlignmentClassifier.from_encoder(golden_case.encoder, views=None)
    names = [label.replace("_", " ") for label in golden_case.labels]
    recorded = golden_case.notes["transformers_pipeline_whole_image"]
    for expected, result in zip(recorded, classifier(golden_case.images, names), strict=True):
        assert [one["label"] for one in result] == [one["label"] for one in expected]
        assert_close(
            torch.tensor([one["score"] for one in result]),
            torch.tensor([one["score"] for one in expected]),
            **ENCODING,
        )
