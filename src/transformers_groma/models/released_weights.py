"""Recognizes model folders with settings but no weights, and says where the released weights are."""

import os

# Where the weights of this repository's folders of settings come from.
_RELEASED = {
    "groma-7b": "FoundationVision/groma-7b-finetune",
    "groma-7b-pretrain": "FoundationVision/groma-7b-pretrain",
    "groma-det-pretrain": "FoundationVision/groma-det-pretrain",
    "glamm-fullscope": "MBZUAI/GLaMM-FullScope",
}
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".h5")


def check_weights(path: str | os.PathLike | None) -> None:
    """Check that a folder with a model's settings also holds weights.

    Args:
        path (`str` or `Path`, *optional*): of a model; a name of the Hub, a file or a folder without settings passes.

    Raises:
        FileNotFoundError: it has a `config.json` and no weights. Says where the weights are, if that is known.
    """
    if path is None or not os.path.isfile(os.path.join(path, "config.json")):
        return
    if any(name.endswith(_WEIGHT_SUFFIXES) for name in os.listdir(path)):
        return
    name = os.path.basename(os.path.realpath(path))
    remedy = "pass a folder with a file of weights, such as model.safetensors"
    if name in _RELEASED:
        remedy = (
            f"download the released checkpoint (`hf download {_RELEASED[name]} --local-dir original`), convert it "
            f"(`groma convert original {name}`) and pass the converted folder"
        )
    raise FileNotFoundError(f"{path} holds the settings of a model but no weights: {remedy}.")


__all__ = ["check_weights"]
