"""What `groma push` sends: the kind of a folder, the options of each kind, and the files that go up."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..hub_names import has_owner_and_name
from .arguments import importing_data_packages
from .models import source_checkout

if TYPE_CHECKING:
    from ..publishing.contents import Contents

KINDS = ("model", "dataset", "metric", "space", "kernel")
# Which kinds an option is for, by its name among the arguments.
KINDS_OF_OPTIONS = {
    "remote_code": ("model",),
    "base_model": ("model",),
    "license": ("model", "dataset"),
    "local_builds": ("kernel",),
}
# How the Hub writes licences.
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def is_app_of_model(arguments: argparse.Namespace) -> bool:
    """Whether DIR is not a folder but the Hub name of a model, for a Space that shows it."""
    is_name = has_owner_and_name(arguments.folder.as_posix())
    return arguments.kind == "space" and is_name and not arguments.folder.exists()


def kind_to_push(arguments: argparse.Namespace) -> str:
    """The kind that `--type` names, else that of the folder.

    Raises:
        ValueError: the folder holds nothing or several things, or an option is for other kinds or has no such value.
    """
    from ..publishing.kinds import kind_of

    kind = arguments.kind or kind_of(arguments.folder)
    for option, kinds in KINDS_OF_OPTIONS.items():
        if getattr(arguments, option) not in (None, False) and kind not in kinds:
            flag = f"--{option.replace('_', '-')}"
            raise ValueError(f"{flag} is for a {' or '.join(kinds)}, and this is a {kind}: leave it out.")
    if arguments.license is not None and not _LICENSE.fullmatch(arguments.license):
        raise ValueError(
            f"--license {arguments.license!r} is not an identifier of the Hub: write one of "
            "https://huggingface.co/docs/hub/repositories-licenses, as apache-2.0, or other."
        )
    return kind


def contents_of(kind: str, arguments: argparse.Namespace) -> "Contents":
    """The files of a push.

    Raises:
        CommandError: a package is missing.
        ValueError: something about the files is wrong; the message says what.
    """
    folder, repo_id = arguments.folder, arguments.repo_id
    if kind == "dataset":
        with importing_data_packages():
            from ..publishing.dataset_contents import dataset_contents
        return dataset_contents(folder, repo_id, arguments.license)
    if kind == "metric":
        from ..publishing.metric_contents import metric_contents

        return metric_contents(folder, repo_id)
    if kind == "kernel":
        from ..publishing.kernel_contents import kernel_contents

        return kernel_contents(folder, repo_id, arguments.local_builds)
    if kind == "space":
        return _space(arguments)
    return _model(arguments)


def _space(arguments: argparse.Namespace) -> "Contents":
    from ..publishing.space_contents import app_space_contents, space_contents

    if is_app_of_model(arguments):
        return app_space_contents(_app_template(), arguments.folder.as_posix())
    if (arguments.folder / "config.json").is_file():
        raise ValueError(
            f"{arguments.folder} holds a model, and a Space shows one of the Hub: push the model first, then `groma "
            f"push ORG/MODEL {arguments.repo_id} --type space`."
        )
    return space_contents(arguments.folder)


def _app_template() -> Path:
    """The files of our Space: of the source checkout, else of the installed package."""
    checkout = source_checkout()
    places = [Path(__file__).resolve().parents[1] / "_space"]
    if checkout is not None:
        places.insert(0, checkout / "hub_configs" / "space")
    for place in places:
        if (place / "app.py").is_file():
            return place
    raise ValueError(f"The app of this package is not in {places[-1]}: install the package again.")


def _model(arguments: argparse.Namespace) -> "Contents":
    from ..export_remote_code import own_code, remote_code_contents
    from ..publishing.model_contents import model_contents

    is_adapter = not (arguments.folder / "config.json").is_file()
    if is_adapter and arguments.remote_code:
        raise ValueError(f"{arguments.folder} is an adapter, which holds no code: leave out --remote-code.")
    code = {}
    if not is_adapter:
        code = (remote_code_contents if arguments.remote_code else own_code)(arguments.folder)
    return model_contents(
        arguments.folder,
        arguments.repo_id,
        code=code,
        license=arguments.license,
        base_model=arguments.base_model,
    )


def how_to_load(kind: str, contents: "Contents", repo_id: str, revision: str | None) -> list[str]:
    """Lines that say how what was pushed is used.

    Args:
        kind (`str`): one of `KINDS`.
        contents (`Contents`): what was pushed.
        repo_id (`str`): where it is.
        revision (`str`, *optional*): the tag, branch or pull request, if it is not `main`.
    """
    argument = f", revision={revision!r}" if revision else ""
    if kind == "model":
        option = f" --revision {revision}" if revision else ""
        return [
            f"use it:   groma caption photo.jpg --model {repo_id}{option}",
            f'          pipeline("image-grounding", model="{repo_id}"{argument})',
        ]
    if kind == "dataset":
        return [f'use it:   datasets.load_dataset("{repo_id}"{argument})']
    if kind == "metric":
        return [f'use it:   evaluate.load("{repo_id}"{argument})']
    if kind == "kernel":
        version = argument or f", version={contents.branch.removeprefix('v')}"
        return [f'use it:   kernels.get_kernel("{repo_id}"{version})']
    return []


__all__ = ["KINDS", "KINDS_OF_OPTIONS", "contents_of", "how_to_load", "is_app_of_model", "kind_to_push"]
