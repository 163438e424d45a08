"""Loads a model with its processor, for all that answer questions: commands, app and server."""

import logging
import os
import shutil
import tempfile
import weakref
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, PreTrainedModel

from .damaged_models import check_all_loaded
from .float32_products import HALF_DTYPES
from .hub_models import find_model, loading_model
from .int8_products import pack_int8_products
from .loading_options import AS_SAVED, FLASH_ATTENTIONS, LoadingOptions
from .onednn_products import use_onednn
from .wide_products import slow_dtypes, widen_products

logger = logging.getLogger(__name__)

# Where bitsandbytes has kernels.
_BITSANDBYTES_DEVICES = ("cpu", "cuda", "xpu")
_PACKAGES = {"4bit": "bitsandbytes", "8bit": "bitsandbytes", "int8": "torchao"}
# The adapter's weights would wait on disk without values, and the answers would be nonsense.
_NO_OFFLOADED_ADAPTER = (
    "`offload=True` does not work with an adapter: merge the adapter into its model and load that, or leave it out."
)


def best_device() -> torch.device:
    """The accelerator of this machine if torch can use it, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def usable_device(device: str | torch.device, name: str = "`device`") -> torch.device:
    """A device, tested with a tensor.

    Args:
        device (`str` or `torch.device`): the device.
        name (`str`): how an error names the argument.

    Raises:
        ValueError: torch cannot use it.

    Example:
    >>> usable_device("cpu")
    device(type='cpu')
    """
    try:
        torch.zeros(1, device=device)
    # Torch has no single error for this: a wrong name, no driver and a build without the backend all differ.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name} {str(device)!r} cannot be used ({reason}): pass cpu or leave it out.") from error
    return torch.device(device)


def load_model(
    model: str | PathLike[str],
    device: str | torch.device | None = None,
    options: LoadingOptions = AS_SAVED,
) -> tuple[Any, Any]:
    """Load a model and its processor.

    Args:
        model (`str` or path): folder or Hub name of a model, or the folder of an adapter.
        device (`str` or `torch.device`, *optional*): [`best_device`] by default.
        options (`LoadingOptions`): dtype, quantization, attention, compilation, offloading; by default the model is
            loaded as it was saved.

    Returns:
        The model, in evaluation mode on its device, and its processor.

    Raises:
        OSError: no such folder, model or revision, or no access to it; the message says what to do.
        ValueError: options that do not fit the machine or the model; see [`check_loading`].

    Example:
    >>> import transformers_groma
    >>> model, processor = load_model("hub_configs/groma-tiny", device="cpu")
    >>> type(processor).__name__
    'GromaProcessor'
    """
    find_model(model, options.revision)
    with loading_model(model, options.revision):
        processor = AutoProcessor.from_pretrained(model, revision=options.revision)
    return load_weights(AutoModelForImageTextToText, model, device, options), processor


def load_config(model: str | PathLike[str], revision: str | None = None) -> PreTrainedConfig:
    """Load the configuration of a model, of an adapter that of its model.

    Args:
        model (`str` or path): folder or Hub name of a model or an adapter.
        revision (`str`, *optional*): branch, tag or commit of a model on the Hub; of an adapter, the adapter's.

    Returns:
        `PreTrainedConfig`

    Raises:
        OSError: no such folder, model or revision; the message says what to do.
    """
    base = find_model(model, revision)
    if base is not None:
        return load_config(base)
    with loading_model(model, revision):
        return AutoConfig.from_pretrained(model, revision=revision)


def load_weights(
    model_class: Any,
    model: str | PathLike[str],
    device: str | torch.device | None = None,
    options: LoadingOptions = AS_SAVED,
    config: PreTrainedConfig | None = None,
) -> PreTrainedModel:
    """Load a model of a class; options that are for a language model are left out where there is none.

    Args:
        model_class: `AutoModelForImageTextToText`, `GromaForRegionProposal` or another class with `from_pretrained`.
        model (`str` or path): folder or Hub name of a model, or the folder of an adapter.
        device (`str` or `torch.device`, *optional*): [`best_device`] by default.
        options (`LoadingOptions`): how it is loaded.
        config (`PreTrainedConfig`, *optional*): its configuration, if it should differ from the saved one.

    Returns:
        `PreTrainedModel`: in evaluation mode on its device.

    Raises:
        OSError: no such folder, model or revision, or no access to it; the message says what to do.
        ValueError: options that do not fit the machine or the model, see [`check_loading`]; or a file is damaged, or
            weights are missing.
    """
    device = torch.device(best_device() if device is None else device)
    own = config
    if own is None:
        own = load_config(model, options.revision)
    is_auto = model_class is AutoModelForImageTextToText
    if not (is_auto and hasattr(own, "text_config")):
        if options.of_language_model:
            names = " and ".join(f"`{name}`" for name in options.of_language_model)
            logger.warning("No language model is loaded, so %s changes nothing: leave it out.", names)
        options = options.without_language_model()
    check_loading(options, device)
    kwargs: dict[str, Any] = {"dtype": options.dtype, "revision": options.revision}
    if config is not None:
        kwargs["config"] = config
    if options.attn is not None:
        dtype = _language_dtype(options, own)
        if options.attn in FLASH_ATTENTIONS and dtype not in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"`attn={options.attn!r}` computes in half precision, and the model was saved in "
                f"{str(dtype).removeprefix('torch.')}: pass `dtype='bfloat16'` as well."
            )
        # FlashAttention takes half precision alone, and the visual parts stay in float32.
        is_flash = options.attn in FLASH_ATTENTIONS
        kwargs["attn_implementation"] = {"text_config": options.attn} if is_flash else options.attn
    with loading_model(model, options.revision):
        if options.quantization is not None:
            loaded = _load_quantized(model_class, model, device, options, own, kwargs)
        elif options.offload:
            loaded = _load_offloaded(model_class, model, device, own, kwargs)
        else:
            loaded = _complete(model_class, model, kwargs).to(device)
    choose_products(loaded, device, options)
    return _compiled(loaded) if options.compile else loaded


def choose_products(model: nn.Module, device: torch.device, options: LoadingOptions) -> None:
    """Choose how a model on a CPU multiplies: many rows in float32 if the options say so, few rows of int8 packed.

    Many rows of float32 are multiplied with oneDNN where that is faster. See [`widen_products`], [`use_onednn`] and
    [`pack_int8_products`].

    Args:
        model (`nn.Module`): changed in place.
        device (`torch.device`): where it is.
        options (`LoadingOptions`): `wide_products` is read.
    """
    if device.type != "cpu":
        return
    pack_int8_products(model)
    if options.wide_products == "plain":
        return
    use_onednn(model)
    is_wanted = options.wide_products == "float32"
    if not widen_products(model, HALF_DTYPES if is_wanted else slow_dtypes()) and is_wanted:
        logger.warning(
            "`wide_products='float32'` changes nothing, as no layer computes in half precision: leave it out."
        )


def check_loading(options: LoadingOptions, device: torch.device) -> None:
    """Check that a machine can load a model as asked, before anything slow happens.

    Args:
        options (`LoadingOptions`): how a model should be loaded.
        device (`torch.device`): where.

    Raises:
        ValueError: a package is missing, or the device cannot do it; the message names the option and the remedy.
    """
    if options.quantization is not None:
        name = f"`quantization={options.quantization!r}`"
        for package in (_PACKAGES[options.quantization], "accelerate"):
            if find_spec(package) is None:
                raise ValueError(f'{name} needs the package {package}: pip install "transformers-groma[quantize]".')
        if _PACKAGES[options.quantization] == "bitsandbytes" and device.type not in _BITSANDBYTES_DEVICES:
            raise ValueError(
                f"{name} has no kernels for the device {str(device)!r}: pass `quantization='int8'`, or another device."
            )
    if options.attn in FLASH_ATTENTIONS:
        _check_flash_attention(options.attn, device)
    if options.offload and find_spec("accelerate") is None:
        raise ValueError("`offload=True` needs the package accelerate: pip install accelerate.")
    if options.compile:
        _check_compiler(device)
    if options.wide_products == "float32" and device.type != "cpu":
        raise ValueError(
            f"`wide_products='float32'` is for CPUs, and the device is {str(device)!r}: leave it out, or pass "
            "`dtype='float32'`."
        )


def _check_flash_attention(attn: str, device: torch.device) -> None:
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    if device.type != "cuda":
        raise ValueError(f"`attn={attn!r}` needs a CUDA GPU, and the device is {str(device)!r}: pass `attn='sdpa'`.")
    is_available = {"flash_attention_2": is_flash_attn_2_available, "flash_attention_3": is_flash_attn_3_available}
    if not is_available[attn]():
        raise ValueError(
            f"`attn={attn!r}` needs a package of FlashAttention that fits torch and this GPU (pip install flash-attn "
            "--no-build-isolation): install it, or pass `attn='sdpa'`, which needs none."
        )


def _check_compiler(device: torch.device) -> None:
    """Check that torch.compile finds what it compiles with."""
    if device.type == "cpu":
        named = os.environ.get("CXX")
        if not any(map(shutil.which, [named] if named else ["g++", "clang++", "cl"])):
            raise ValueError(
                f"`compile=True` needs a C++ compiler, and {named or 'g++'} is not found: install one (g++ of your "
                "system's packages), or leave it out."
            )
    elif device.type in ("cuda", "xpu") and find_spec("triton") is None:
        raise ValueError(
            f"`compile=True` needs the package triton on the device {str(device)!r}: install it (pip install triton), "
            "or leave it out."
        )


def _language_dtype(options: LoadingOptions, config: PreTrainedConfig) -> torch.dtype:
    """The dtype that the language model will have."""
    if options.dtype != "auto":
        return getattr(torch, options.dtype)
    return config.dtype or torch.float32


def _complete(model_class: Any, model: str | PathLike[str], kwargs: dict[str, Any]) -> PreTrainedModel:
    """A model in evaluation mode, none of whose weights was made up."""
    loaded, report = model_class.from_pretrained(model, output_loading_info=True, **kwargs)
    check_all_loaded(model, report)
    return loaded.eval()


def _load_quantized(
    model_class: Any,
    model: str | PathLike[str],
    device: torch.device,
    options: LoadingOptions,
    config: PreTrainedConfig,
    kwargs: dict[str, Any],
) -> PreTrainedModel:
    name = f"`quantization={options.quantization!r}`"
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{name} is for weights in full or half precision, and the model is quantized: leave it out.")
    try:
        kwargs["quantization_config"] = _quantization_config(options.quantization, _language_dtype(options, config))
        return _complete(model_class, model, kwargs | {"device_map": {"": device}})
    except ImportError as error:  # a release that is too old or does not fit torch
        raise ValueError(f"{name} cannot be used here: {error}") from error


def _quantization_config(quantization: str, dtype: torch.dtype) -> Any:
    """The quantizer of transformers for the language model; the model itself says what is left out."""
    if quantization == "int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        # It says of each layer, in each step, that it casts to float16.
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_says_no_casts)
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)


def _says_no_casts(record: logging.LogRecord) -> bool:
    return "inputs will be cast from" not in record.getMessage()


def _load_offloaded(
    model_class: Any,
    model: str | PathLike[str],
    device: torch.device,
    config: PreTrainedConfig,
    kwargs: dict[str, Any],
) -> PreTrainedModel:
    if find_model(model, kwargs["revision"]) is not None:
        raise ValueError(_NO_OFFLOADED_ADAPTER)
    # Weights that are converted to another dtype are written there; the others are read from where they are.
    folder = tempfile.TemporaryDirectory(prefix="groma-offload-")
    device_map = _layers_on_disk(model_class, config) if device.type == "cpu" else "auto"
    kwargs |= {"device_map": device_map, "offload_folder": Path(folder.name)}
    try:
        loaded = _complete(model_class, model, kwargs)
    except KeyError as error:  # of a weight that is looked for among those on disk
        check_all_loaded(model, {"missing_keys": error.args})
        raise
    weakref.finalize(loaded, folder.cleanup)
    return loaded


def _layers_on_disk(model_class: Any, config: PreTrainedConfig) -> dict[str, str]:
    """A device map: the layers of the language model on disk, all else in memory."""
    with torch.device("meta"):
        built = model_class.from_config(config)
    device_map: dict[str, str] = {}

    def place(parent: nn.Module, path: str) -> None:
        for child, module in parent.named_children():
            name = f"{path}{child}"
            if name in ("model", "model.language_model"):  # the library wants every module named
                place(module, f"{name}.")
            else:
                is_layers = path == "model.language_model." and isinstance(module, nn.ModuleList)
                device_map[name] = "disk" if is_layers else "cpu"

    place(built, "")
    return device_map


def _compiled(model: PreTrainedModel) -> PreTrainedModel:
    """Compile the language model of a model in place; what it reads has another length in each step."""
    model.model.language_model.compile(dynamic=True)
    return model


__all__ = [
    "best_device",
    "check_loading",
    "choose_products",
    "load_config",
    "load_model",
    "load_weights",
    "usable_device",
]
