"""The baselines of the released WCA code: their texts, class embeddings and logits."""

import pytest
import torch

from .golden_cases import GoldenCase

# Where the released code's baseline and ours differ in name, and what of a case its texts are made from.
BASELINES = {
    "clip": ("template", {}),
    "clip-e": ("ensemble", {"templates": "clip_e"}),
    "clip-d": ("dclip", {"descriptions": "clip_d"}),
    "cupl": ("cupl", {"descriptions": "descriptions"}),
}


@pytest.mark.parametrize("baseline", BASELINES)
def test_class_embeddings_and_logits_of_a_baseline(golden_case: GoldenCase, baseline):
    method, sources = BASELINES[baseline]
    given = {"descriptions": None} | {name: golden_case.notes[source] for name, source in sources.items()}
    classifier = golden_case.classifier(method=method, **given)
    pooled = torch.nn.functional.normalize(classifier.texts.pooled, dim=-1)
    torch.testing.assert_close(pooled, golden_case.tensors[f"baseline.{baseline}.class_embeds"], atol=1e-5, rtol=0)
    logits = classifier.scores(classifier.encode(golden_case.images))
    torch.testing.assert_close(logits, golden_case.tensors[f"baseline.{baseline}.logits"], atol=1e-5, rtol=0)
    predicted = [golden_case.labels.index(result.label) for result in classifier.classify(golden_case.images)]
    assert predicted == golden_case.notes["pred_baselines"][baseline] == logits.argmax(dim=1).tolist()
