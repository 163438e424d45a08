"""Registers both families with transformers' Auto classes and pipelines, as soon as transformers loads them.

After `import transformers_groma`, `AutoModel.from_pretrained` has to know Groma and GLaMM. `AutoModel.register` takes
classes, and loading their modules loads torch. Other ways were weighed (2 CPU cores, transformers 5.24):

- Register at once: importing the package would take 2.3 s and load torch, even for `groma --help`. Now it takes 15 ms.
- Register names, as transformers does for its own models: `MODEL_MAPPING_NAMES` is in a module that loads torch too,
  and its names are only looked up in `transformers.models`.
- Be a plug-in that transformers loads: it has no entry point for one.

So we wait for the five modules of transformers that hold the mappings. Python's way to learn of an import is a finder
on `sys.meta_path`. This one lets the usual `PathFinder` find those five, and registers our classes once such a
module has been executed. Where one has been imported before this package, its classes are registered at once.
"""

import sys
from collections.abc import Callable
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def _register_configs(module: ModuleType) -> None:
    from .models.configuration_mask_decoder import MaskDecoderConfig
    from .models.configuration_region_encoder import GromaRegionEncoderConfig
    from .models.glamm.configuration_glamm import GlammConfig
    from .models.groma.configuration_groma import (
        GromaConfig,
        GromaMaskDecoderConfig,
        GromaProposerConfig,
        GromaRegionProposalConfig,
    )

    for config_class in (
        GlammConfig,
        GromaConfig,
        GromaMaskDecoderConfig,
        GromaProposerConfig,
        GromaRegionEncoderConfig,
        GromaRegionProposalConfig,
        MaskDecoderConfig,
    ):
        module.AutoConfig.register(config_class.model_type, config_class, exist_ok=True)


def _register_models(module: ModuleType) -> None:
    from .models.glamm.configuration_glamm import GlammConfig
    from .models.glamm.modeling_glamm import GlammForConditionalGeneration, GlammModel
    from .models.groma.configuration_groma import GromaConfig, GromaRegionProposalConfig
    from .models.groma.modeling_groma import GromaForConditionalGeneration, GromaModel
    from .models.groma.modeling_groma_detector import GromaForRegionProposal

    for config_class, base_class, model_class in (
        (GromaConfig, GromaModel, GromaForConditionalGeneration),
        (GlammConfig, GlammModel, GlammForConditionalGeneration),
    ):
        module.AutoModel.register(config_class, base_class, exist_ok=True)
        module.AutoModelForImageTextToText.register(config_class, model_class, exist_ok=True)
        module.AutoModelForMultimodalLM.register(config_class, model_class, exist_ok=True)
    module.AutoModel.register(GromaRegionProposalConfig, GromaForRegionProposal, exist_ok=True)
    module.AutoModelForObjectDetection.register(GromaRegionProposalConfig, GromaForRegionProposal, exist_ok=True)
    # `pipeline("object-detection")` looks for the class by its name here, and warns of every other class.
    names = module.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
    names.setdefault(GromaRegionProposalConfig.model_type, GromaForRegionProposal.__name__)


def _register_processors(module: ModuleType) -> None:
    from .models.glamm.configuration_glamm import GlammConfig
    from .models.glamm.processing_glamm import GlammProcessor
    from .models.groma.configuration_groma import GromaConfig
    from .models.groma.processing_groma import GromaProcessor

    module.AutoProcessor.register(GromaConfig, GromaProcessor, exist_ok=True)
    module.AutoProcessor.register(GlammConfig, GlammProcessor, exist_ok=True)


def _register_image_processors(module: ModuleType) -> None:
    from .models.glamm.configuration_glamm import GlammConfig
    from .models.glamm.image_processing_glamm import GlammImageProcessor
    from .models.glamm.image_processing_pil_glamm import GlammImageProcessorPil
    from .models.groma.configuration_groma import GromaConfig, GromaRegionProposalConfig
    from .models.groma.image_processing_groma import GromaImageProcessor
    from .models.groma.image_processing_pil_groma import GromaImageProcessorPil

    for config_class, pil_class, torchvision_class in (
        (GromaConfig, GromaImageProcessorPil, GromaImageProcessor),
        (GromaRegionProposalConfig, GromaImageProcessorPil, GromaImageProcessor),
        (GlammConfig, GlammImageProcessorPil, GlammImageProcessor),
    ):
        module.AutoImageProcessor.register(
            config_class, image_processor_classes={"pil": pil_class, "torchvision": torchvision_class}, exist_ok=True
        )


def _register_pipelines(module: ModuleType) -> None:
    from .pipeline import register_image_grounding_pipeline

    register_image_grounding_pipeline(module.PIPELINE_REGISTRY)


_REGISTRATIONS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.models.auto.processing_auto": _register_processors,
    "transformers.models.auto.image_processing_auto": _register_image_processors,
    "transformers.pipelines": _register_pipelines,
}


class _RegisterAfterImport(MetaPathFinder):
    """Runs each registration once its transformers module, and every module of ours being imported, is loaded.

    The second condition matters where one of our modules is what loads transformers' Auto classes. `modeling_groma`
    imports `AutoModel`, so `modeling_auto` is executed while `modeling_groma` is still in its import lines and has no
    `GromaModel` to register. Hence our own modules are watched too, and registrations wait for the outermost of them.
    """

    def __init__(self) -> None:
        self.waiting = dict(_REGISTRATIONS)
        self.executed = {name for name in _REGISTRATIONS if name in sys.modules}
        self.own_modules_executing = 0

    def find_spec(self, fullname: str, path=None, target: ModuleType | None = None) -> ModuleSpec | None:
        is_own = fullname.startswith(f"{__package__}.")
        if not is_own and fullname not in self.waiting:
            return None  # not ours to find: Python asks the next finder
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.own_modules_executing += is_own
            try:
                execute(module)
            finally:
                self.own_modules_executing -= is_own
            self.executed.add(fullname)
            self.register()

        # The loader belongs to this one spec: no other module is executed by it.
        spec.loader.exec_module = exec_module
        return spec

    def register(self) -> None:
        """Run the registrations whose module is loaded, unless one of our modules is half imported."""
        for name in list(self.waiting):
            # Looked up again each time: a registration imports our modules, which may load more of transformers', so
            # this method may have been called, and have run others, in the meantime.
            if name in self.executed and name in self.waiting and self.own_modules_executing == 0:
                self.waiting.pop(name)(sys.modules[name])


def register_with_transformers() -> None:
    """Register with AutoConfig, AutoModel…, AutoProcessor, AutoImageProcessor and pipelines; imports nothing."""
    if any(isinstance(finder, _RegisterAfterImport) for finder in sys.meta_path):
        return
    finder = _RegisterAfterImport()
    sys.meta_path.insert(0, finder)
    finder.register()
