"""Models, devices, images and regions that commands are given, checked before anything slow happens."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..loading_options import LoadingOptions
from ..model_files import ANSWERING_MODELS, PROPOSING_MODELS
from .arguments import CommandError, errors_of, errors_of_loading
from .output import note
from .region_arguments import option_of
from .starting import starting

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from ..grounding import GroundedText
    from ..pipeline import ImageGroundingPipeline
    from ..regions import Regions

LEGACY_CHECKPOINT = Path("tests", "fixtures", "golden", "legacy_checkpoint")


def source_checkout() -> Path | None:
    """The folder of the source checkout that this package runs from, if it does."""
    root = Path(__file__).resolve().parents[3]
    is_checkout = (root / "pyproject.toml").is_file() and (root / LEGACY_CHECKPOINT).is_dir()
    return root if is_checkout else None


def embedded_model() -> Path:
    """The folder of groma-tiny: of the source checkout, else of the installed package.

    Raises:
        CommandError: it is in neither.
    """
    checkout = source_checkout()
    places = [Path(__file__).resolve().parents[1] / "_models" / "groma-tiny"]
    if checkout is not None:
        places.insert(0, checkout / "hub_configs" / "groma-tiny")
    for place in places:
        if (place / "config.json").is_file() and any(place.glob("*.safetensors")):
            return place
    raise CommandError(
        f"--model is needed: the tiny model of this package is not in {places[0]}. `make train-tiny` makes it in a "
        "checkout."
    )


def is_embedded(model: str | None) -> bool:
    """Whether this is groma-tiny, the model of this package, by default or by the path of its folder."""
    return model is None or (Path(model).is_dir() and Path(model).resolve() == embedded_model().resolve())


def tiny_model(model: str | None) -> str | None:
    """The name of a model that only knows shapes, if this is one: groma-tiny, or glamm-tiny of the source checkout."""
    if is_embedded(model):
        return "groma-tiny"
    checkout = source_checkout()
    if checkout is not None and Path(model).resolve() == checkout / "hub_configs" / "glamm-tiny":
        return "glamm-tiny"
    return None


def model_name(model: str) -> str:
    """How people and requests name a model: the name of its folder, or its name on the Hub."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def load_pipeline(model: str | None, device: str | None, options: LoadingOptions) -> "ImageGroundingPipeline":
    """Check a model and load it as a pipeline."""
    with starting():
        model = checked_model(model, ANSWERING_MODELS, revision=options.revision)
        device = checked_device(device, options)
        from ..loading import load_model
        from ..pipeline import ImageGroundingPipeline

        with errors_of(f"--model {model!r}"), errors_of_loading():
            loaded, processor = load_model(model, device, options)
        # Of a model that was placed in parts, the pipeline finds the device by itself.
        device = None if hasattr(loaded, "hf_device_map") else device
        return ImageGroundingPipeline(model=loaded, processor=processor, device=device, task="image-grounding")


def ask(
    pipe: "ImageGroundingPipeline",
    image: "Image.Image",
    question: str | None,
    regions: Sequence[Any],
    generate_kwargs: dict[str, Any],
    parse_tokens: bool = False,
    masks: bool = False,
) -> "GroundedText":
    """Ask about an image and its regions, boxes `xyxy` in absolute pixels or as `add_region_arguments` reads them.

    Control tokens in the question are plain text unless `parse_tokens` is set.
    """
    with errors_of("QUESTION and its regions"):
        return pipe(
            image,
            question,
            regions=list(regions),
            generate_kwargs=generate_kwargs,
            parse_tokens=parse_tokens,
            masks=masks,
        )


def seed_sampling(seed: int | None) -> None:
    """Make sampling repeatable, if a seed is given."""
    if seed is not None:
        import torch

        torch.manual_seed(seed)


def propose_regions(
    model: str | None,
    image: "Image.Image",
    device: str | None,
    options: LoadingOptions,
    masks: bool = False,
) -> "Regions":
    """Find the regions of an image, with their masks if asked for. A whole Groma is loaded without its language model.

    Their boxes are those of the proposals, with masks too.
    """
    remedy = (
        "point at what you mean (`groma segment IMAGE --point X,Y`), name it (`groma segment IMAGE PHRASE`), or have "
        "the image described (`groma caption IMAGE`), as it has no region proposer"
    )
    detector, image_processor = load_proposing(model, device, options, remedy)
    import torch

    from ..masks import masks_of_logits
    from ..regions import Regions, regions_of_slots

    if masks:
        check_masks(detector, "--masks")
    pixel_values = image_processor(image, return_tensors="pt")["pixel_values"].to(detector.device)
    features = detector.get_image_features(pixel_values)
    slots = (features.region_boxes, features.region_scores, features.region_mask)
    (regions,) = regions_of_slots(*slots, [(image.height, image.width)])
    if not masks or not len(regions):
        return regions
    decoded = detector.segment(features, slots=torch.tensor([regions.ids], device=detector.device))
    pixels = masks_of_logits(decoded.logits[0, :, 0], image.height, image.width)
    return Regions(regions.xyxy, regions.scores, regions.ids, pixels)


def load_proposing(
    model: str | None, device: str | None, options: LoadingOptions, remedy: str, argument: str = "--model"
) -> tuple[Any, Any]:
    """Check a model and load what proposes regions of it, with its image processor.

    Args:
        model (`str`, *optional*): of the command line; the tiny model of this package by default.
        device (`str`, *optional*): the best one available by default.
        options (`LoadingOptions`): how it is loaded; what is for a language model is noted and left out.
        remedy (`str`): what to do instead with a GLaMM, which has no region proposer.
        argument (`str`): how errors name the model.

    Raises:
        CommandError: it is not a model that proposes regions, or it cannot be loaded so.
    """
    asked = model
    model = checked_model(asked, PROPOSING_MODELS, {"glamm": remedy}, options.revision, argument)
    options = options_of(options, asked, model)
    if options.of_language_model:
        names = " and ".join(f"--{name}" for name in options.of_language_model)
        note(f"finding regions needs no language model, so {names} changes nothing")
    options = options.without_language_model()
    device = checked_device(device, options)
    from ..detector_loading import load_detector

    with errors_of(f"{argument} {model!r}"):
        return load_detector(model, device, options)


def check_masks(model: Any, what: str) -> None:
    """Refuse a model without a mask decoder; `what` needs one."""
    from ..answer_masks import check_mask_decoder

    try:
        check_mask_decoder(model, what)
    except ValueError as error:
        raise CommandError(str(error)) from error


def options_of(options: LoadingOptions, asked: str | None, model: str) -> LoadingOptions:
    """How to load what [`checked_model`] made of `--model`: the model of an adapter has no revision of its own."""
    return options if asked in (None, model) else replace(options, revision=None)


def checked_model(
    model: str | None,
    model_types: tuple[str, ...],
    remedies: Mapping[str, str] = MappingProxyType({}),
    revision: str | None = None,
    argument: str = "--model",
) -> str:
    """Check by its config.json that a folder or Hub name is a model of these types, and return it.

    Args:
        model (`str`, *optional*): of the command line; the tiny model of this package by default.
        model_types (`tuple[str, ...]`): the types that the command takes.
        remedies (`Mapping[str, str]`): by the type of another model, why it is not taken and what to do instead.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub.
        argument (`str`): how errors name it.

    Raises:
        CommandError: it is not a model, or one of another type; or the Hub does not let it be loaded.
    """
    if model is None:
        model = str(embedded_model())
        note(
            f"using the tiny model {Path(model).name}, which only knows drawn scenes of coloured shapes; for photos "
            "pass a --model"
        )
    from transformers import PreTrainedConfig
    from transformers.utils import logging

    from ..hub_errors import nearest_folder
    from ..hub_models import find_model

    logging.disable_progress_bar()
    if Path(model).is_file():
        raise CommandError(f"{argument} {model!r} is a file: pass the folder or the Hub name of a model.")
    is_folder = Path(model).is_dir()
    if not is_folder and (Path(model).is_absolute() or model.startswith(".") or model.count("/") > 1):
        near = nearest_folder(model)
        remedy = f"did you mean {near!r}?" if near else "pass a model's folder, or a Hub name such as org/groma-7b."
        raise CommandError(f"{argument} {model!r} is not a folder: {remedy}")
    where = f"{argument} {model!r}"
    if not is_folder:
        where += " is not a folder here, and as a name on the Hub"
    with errors_of(where), errors_of_loading():
        base = find_model(model, revision)
    if base is not None:
        return _checked_adapter(model, base, model_types, remedies, argument)
    with errors_of(where):
        config, _ = PreTrainedConfig.get_config_dict(model, revision=revision)
    if not config:
        raise CommandError(f"{argument} {model!r} has no config.json: pass the folder or the Hub name of a model.")
    from ..models.original_settings import original_family

    if (family := original_family(config)) is not None:
        raise CommandError(
            f"{argument} {model!r} is a checkpoint of the original {family}: convert it first, `groma convert {model} "
            "OUT_DIR`."
        )
    model_type = config.get("model_type")
    if model_type not in model_types:
        remedy = remedies.get(model_type, f"pass one of type {' or '.join(map(repr, model_types))}")
        raise CommandError(f"{argument} {model!r} holds a model of type {model_type!r}: {remedy}.")
    from ..models.released_weights import check_weights

    with errors_of(argument):
        check_weights(model)
    return model


def _checked_adapter(
    model: str, base: str, model_types: tuple[str, ...], remedies: Mapping[str, str], argument: str
) -> str:
    """What to load for an adapter: its folder, which names its base model; for regions alone the base model."""
    try:
        types = tuple(each for each in model_types if each != "groma_region_proposal")
        base = checked_model(base, types, remedies, argument=argument)
    except CommandError as error:
        raise CommandError(f"{argument} {model!r} is an adapter of {base!r}. {error}") from error
    if "groma_region_proposal" in model_types:
        return base  # an adapter leaves the detector as it is
    from transformers.utils import is_peft_available

    if not is_peft_available():
        raise CommandError(
            f'--model {model!r} is an adapter, which needs PEFT: pip install "transformers-groma[train]", or merge it.'
        )
    return model


def checked_device(device: str | None, options: LoadingOptions) -> "torch.device":
    """The device, tested with a tensor; by default the best one available. It must be able to load a model so."""
    from ..loading import best_device, check_loading, usable_device

    try:
        found = best_device() if device is None else usable_device(device, "--device")
    except ValueError as error:
        raise CommandError(str(error)) from error
    with errors_of_loading():
        check_loading(options, found)
    return found


def open_upright(source: str) -> "Image.Image":
    """Read the image of a path or URL and turn it upright."""
    is_url = source.startswith(("http://", "https://"))
    if not is_url and not Path(source).is_file():
        raise CommandError(f"IMAGE {source!r} is not a file: pass the path or the http(s) URL of an image.")
    from ..image_inputs import image_size, read_upright

    with errors_of(f"IMAGE {source!r}"):
        image = read_upright(source, name="it")
        image_size(image, name="it")
    return image


def check_regions(regions: Sequence[Any], image: "Image.Image") -> None:
    """Check regions of the command line, as `add_region_arguments` reads them, before a model is loaded."""
    for region in regions:
        option = option_of(region)
        check_region(region, image, option, option)


def check_region(region: Any, image: "Image.Image", name: str, argument: str) -> None:
    """Check a region of an image; an error calls it `name`, and starts with the `argument` that it was given by."""
    from ..image_inputs import ImageSize
    from ..region_inputs import read_region

    with errors_of(argument):
        try:
            read_region(region, ImageSize(image.height, image.width), name=name)
        except ValueError as error:
            # Whoever wrote `--point 9,3` knows nothing of `--point['points'][0]`.
            raise ValueError(re.sub(rf"`{re.escape(name)}(\['\w+'\]|\[\d+\])+`", f"`{name}`", str(error))) from error
