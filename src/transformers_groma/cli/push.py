"""`groma push`: puts a model, or what else belongs on the Hub, into a repository there."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import CommandError, add_command, errors_of
from .output import note

if TYPE_CHECKING:
    from ..publishing.contents import Contents
    from ..publishing.upload import Pushed

_KINDS = ("model",)
_UNITS = ("B", "kB", "MB", "GB", "TB")


def add_push(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    push = add_command(
        commands,
        "push",
        run_push,
        "push a model to the Hugging Face Hub, complete, checked and with nothing of this machine",
        "groma push output/groma-photos your-name/groma-photos\n"
        "         groma push groma-7b your-name/groma-7b --private --remote-code --tag v1.0\n"
        "         groma push output/lora your-name/groma-lora --base-model org/groma-7b --dry-run",
    )
    push.add_argument("folder", metavar="DIR", type=Path, help="folder of a model, an adapter or a checkpoint")
    push.add_argument("repo_id", metavar="ORG/NAME", help="repository; created if it does not exist")
    push.add_argument("--type", dest="kind", choices=_KINDS, help="what DIR holds (default: told from its files)")
    push.add_argument("--private", action="store_true", help="only you, or your organization, see the new repository")
    push.add_argument(
        "--branch",
        "--revision",
        metavar="NAME",
        help="branch to push to, created from main if it does not exist (default: main)",
    )
    push.add_argument("--tag", metavar="NAME", help="tag what was pushed, to load it later with this --revision")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead of changing the branch")
    push.add_argument("--message", metavar="TEXT", help="of the commit (default: Push with groma)")
    push.add_argument("--dry-run", action="store_true", help="check all, list files and sizes, and send nothing")
    models = push.add_argument_group("models")
    models.add_argument(
        "--remote-code",
        action="store_true",
        help="add this package's code, so that it loads with trust_remote_code=True where the package is missing",
    )
    models.add_argument("--license", metavar="ID", help="licence of the weights for the card, as apache-2.0")
    models.add_argument(
        "--base-model", metavar="ORG/NAME", help="Hub name of the model that it was trained from, for adapter and card"
    )


def run_push(arguments: argparse.Namespace) -> None:
    """`groma push`: check, list or upload, and say how to load it."""
    if not arguments.folder.is_dir():
        raise CommandError(f"DIR {str(arguments.folder)!r} is not a folder: pass the folder of a model.")
    from ..publishing.kinds import kind_of
    from ..publishing.machine_paths import check_no_machine_paths
    from ..publishing.upload import Destination, check_destination, upload

    with errors_of("ORG/NAME"):
        to = Destination(
            arguments.repo_id,
            arguments.private,
            arguments.branch,
            arguments.tag,
            arguments.create_pr,
            arguments.message,
        )
    with errors_of("DIR"):
        kind = arguments.kind or kind_of(arguments.folder)
        contents = _contents(kind, arguments)
        check_no_machine_paths(contents, arguments.folder)
    for change in contents.changes:
        note(f"changed on the way: {change}")
    if contents.left_out:
        note(f"not pushed: {', '.join(contents.left_out)}")
    if arguments.dry_run:
        _print_files(contents, arguments.repo_id)
        return
    with errors_of("ORG/NAME"):
        for text in check_destination(contents, to):
            note(f"note: {text}")
        _print_result(upload(contents, to), kind, arguments)


def _contents(kind: str, arguments: argparse.Namespace) -> "Contents":
    """What goes up of a folder."""
    if kind not in _KINDS:
        raise ValueError(f"{arguments.folder} holds a {kind}; models are what is pushed.")
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


def _print_files(contents: "Contents", repo_id: str) -> None:
    """The files of a push with their sizes."""
    sizes = {
        name: len(source) if isinstance(source, bytes) else source.stat().st_size
        for name, source in contents.files.items()
    }
    for name, size in sizes.items():
        print(f"{_readable(size):>9}  {name}")
    print(f"{_readable(sum(sizes.values())):>9}  in {len(sizes)} files for the {contents.repo_type} {repo_id}")


def _readable(size: float) -> str:
    """A number of bytes for readers."""
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def _print_result(pushed: "Pushed", kind: str, arguments: argparse.Namespace) -> None:
    """The address, and on stderr how to load what is there."""
    print(pushed.url)
    if kind != "model":
        return
    option = f" --revision {pushed.revision}" if pushed.revision else ""
    argument = f", revision={pushed.revision!r}" if pushed.revision else ""
    note(f"use it:   groma caption photo.jpg --model {arguments.repo_id}{option}")
    note(f'          pipeline("image-grounding", model="{arguments.repo_id}"{argument})')
