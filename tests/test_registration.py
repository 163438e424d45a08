"""`import transformers_groma` is cheap and registers both families, whatever was imported before."""

import subprocess
import sys

import pytest

CHECK = """
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM,
    AutoModelForObjectDetection, AutoProcessor,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
config_class = type(AutoConfig.for_model("groma"))
detector_config_class = type(AutoConfig.for_model("groma_region_proposal"))
print(AutoModel._model_mapping[config_class].__name__)
print(AutoModelForImageTextToText._model_mapping[config_class].__name__)
print(AutoModelForMultimodalLM._model_mapping[config_class].__name__)
print(AutoModelForObjectDetection._model_mapping[detector_config_class].__name__)
print(PROCESSOR_MAPPING[config_class].__name__)
print(IMAGE_PROCESSOR_MAPPING[config_class]["pil"].__name__)
glamm_class = type(AutoConfig.for_model("glamm"))
for mapping in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    print(mapping._model_mapping[glamm_class].__name__)
print(PROCESSOR_MAPPING[glamm_class].__name__)
print(IMAGE_PROCESSOR_MAPPING[glamm_class]["pil"].__name__)
print("image-grounding" in PIPELINE_REGISTRY.get_supported_tasks())
"""
EXPECTED = [
    "GromaModel",
    "GromaForConditionalGeneration",
    "GromaForConditionalGeneration",
    "GromaForRegionProposal",
    "GromaProcessor",
    "GromaImageProcessorPil",
    "GlammModel",
    "GlammForConditionalGeneration",
    "GlammForConditionalGeneration",
    "GlammProcessor",
    "GlammImageProcessorPil",
    "True",
]


def run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_importing_costs_no_torch():
    lines = run(
        "import sys, time, transformers; start = time.perf_counter(); import transformers_groma\n"
        "print(time.perf_counter() - start < 0.3, 'torch' in sys.modules)"
    )
    assert lines == ["True False"]


@pytest.mark.parametrize(
    "first",
    [
        "import transformers_groma",
        "from transformers import AutoModel, AutoProcessor, pipeline\nimport transformers_groma",
        "from transformers_groma import GromaModel",
        "import transformers_groma.models.groma.modeling_groma_proposer",
        "import transformers_groma.models.groma.processing_groma",
        "import transformers_groma.pipeline",
        "import transformers_groma.models.glamm.modeling_glamm",
    ],
    ids=["first", "last", "name", "part", "processor", "pipeline", "glamm"],
)
def test_the_auto_classes_know_both_families(first):
    assert run(f"{first}\n{CHECK}") == EXPECTED


def test_unknown_names():
    import transformers_groma

    assert "GromaModel" in dir(transformers_groma)
    with pytest.raises(AttributeError, match="GromaMoodel"):
        _ = transformers_groma.GromaMoodel
