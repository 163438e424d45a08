"""`groma push`: puts a model, a dataset, a metric, a kernel or a Space into a repository of the Hub."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import CommandError, add_command, errors_of
from .output import note
from .push_contents import KINDS, contents_of, how_to_load, is_app_of_model, kind_to_push

if TYPE_CHECKING:
    from ..publishing.contents import Contents
    from ..publishing.upload import Pushed

_UNITS = ("B", "kB", "MB", "GB", "TB")


def add_push(commands: "argparse._SubParsersAction") -> None:
    """Add the command."""
    push = add_command(
        commands,
        "push",
        run_push,
        "push a model, or a dataset, metric, kernel or Space, to the Hugging Face Hub, with nothing of this machine",
        "groma push output/groma-photos your-name/groma-photos\n"
        "         groma push groma-7b your-name/groma-7b --private --remote-code --tag v1.0\n"
        "         groma push output/lora your-name/groma-lora --base-model org/groma-7b --dry-run\n"
        "         groma push data/photos your-name/photos --license cc-by-4.0\n"
        "         groma push your-name/groma-7b your-name/groma-app --type space",
    )
    push.add_argument(
        "folder",
        metavar="DIR",
        type=_folder,
        help="folder of a model, an adapter, a dataset, a metric, a kernel or a Space; with `--type space` also the "
        "Hub name of a model, for a Space with the app",
    )
    push.add_argument("repo_id", metavar="ORG/NAME", help="repository; created if it does not exist")
    push.add_argument("--type", dest="kind", choices=KINDS, help="what DIR holds (default: told from its files)")
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
    models = push.add_argument_group("models, datasets and kernels")
    models.add_argument(
        "--remote-code",
        action="store_true",
        help="add this package's code, so that it loads with trust_remote_code=True where the package is missing",
    )
    models.add_argument(
        "--license", metavar="ID", help="licence of the weights or the dataset for the card, as apache-2.0"
    )
    models.add_argument(
        "--base-model", metavar="ORG/NAME", help="Hub name of the model that it was trained from, for adapter and card"
    )
    models.add_argument(
        "--local-builds",
        action="store_true",
        help="push builds of kernels/build_local.py too, which only run on machines like this one",
    )


def run_push(arguments: argparse.Namespace) -> None:
    """`groma push`: check, list or upload, and say how to load it."""
    if not arguments.folder.is_dir() and not is_app_of_model(arguments):
        raise CommandError(
            f"DIR {str(arguments.folder)!r} is not a folder: pass the folder of a model, a dataset, a metric, a "
            "kernel or a Space."
        )
    from ..publishing.contents import check_links
    from ..publishing.machine_paths import check_no_machine_paths
    from ..publishing.secrets import check_no_secrets
    from ..publishing.space_contents import space_sdk
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
        kind = kind_to_push(arguments)
        contents = contents_of(kind, arguments)
        check_links(contents, arguments.folder)
        check_no_secrets(contents)
        check_no_machine_paths(contents, arguments.folder)
        if contents.repo_type == "space":
            to = replace(to, space_sdk=space_sdk(contents))
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
        _print_result(upload(contents, to), kind, contents, arguments.repo_id)


def _folder(text: str) -> Path:
    """The path of a folder; that of an empty variable would be the current one."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: pass a folder, `.` for the current one")
    return Path(text)


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


def _print_result(pushed: "Pushed", kind: str, contents: "Contents", repo_id: str) -> None:
    """The address, and on stderr how to load what is there."""
    print(pushed.url)
    for line in how_to_load(kind, contents, repo_id, pushed.revision):
        note(line)
