"""Somebody's machine, whose names must not go up: processes with a home, a user and a scratch folder of their own."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ..hub_server import TOKEN, LoopbackHub

REPOSITORY = Path(__file__).parents[2]
USER = "zaphod-beeblebrox"
# What `hf download NAME --repo-type kernel --revision v1` does. Offline, kernels 0.17.2 needs the whole repository and
# the branch of the version; what it downloads for itself is not enough.
WHOLE_KERNEL = """
import sys

from huggingface_hub import snapshot_download

snapshot_download(sys.argv[1], repo_type="kernel", revision="v1")
"""


class Somebody:
    """A user of the Hub with a machine.

    Args:
        folder (`Path`): where the machine is: its home and its folder for temporary files are made there.
        hub (`LoopbackHub`): the Hub.
        token (`str`, *optional*): the user's token; `None` is not logged in.
    """

    def __init__(self, folder: Path, hub: LoopbackHub, token: str | None = TOKEN) -> None:
        self.hub, self.home, self.scratch = hub, folder / "home" / USER, folder / f"scratch-of-{USER}"
        self.work = self.home / "work"
        for one in (self.work, self.scratch):
            one.mkdir(parents=True, exist_ok=True)
        self.token = token

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of the user's processes."""
        own = {"HOME": str(self.home), "USER": USER, "LOGNAME": USER, "TMPDIR": str(self.scratch)}
        # One thread: threads that wait for each other take the time of all.
        own |= {"PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1", "GROMA_KERNELS": "reference"}
        own |= {"HF_EVALUATE_OFFLINE": "0", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "HF_DATASETS_OFFLINE": "0"}
        # kernels 0.17.2 sends a header that httpx2 refuses where telemetry is off.
        own |= {"HF_HUB_DISABLE_TELEMETRY": "0", "DO_NOT_TRACK": "0"}
        return os.environ | self.hub.environment(self.home / "cache", self.token) | own | more

    def run(self, code: str, *arguments: object, fails: bool = False, **environment: str) -> str:
        """Run code in a process of its own; returns what it prints, with stderr if it should fail."""
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=self.work,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert (done.returncode != 0) == fails, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return f"{done.stdout}\n{done.stderr}" if fails else done.stdout

    def groma(self, *commands: list[object], fails: bool = False, **environment: str) -> str:
        """Run commands of `groma`, one after the other in one process; each must succeed, or the last one fail."""
        code = (
            "import json, sys\nfrom transformers_groma.cli import main\n"
            "codes = [main(command) for command in json.loads(sys.argv[1])]\n"
            "sys.exit(any(codes[:-1]) or codes[-1])"
        )
        text = [[str(word) for word in command] for command in commands]
        return self.run(code, json.dumps(text), fails=fails, **environment)


def traces(files: Mapping[str, bytes], somebody: Somebody) -> list[tuple[str, bytes]]:
    """Whatever in the bytes of pushed files names a machine of the test, with some of what is around it."""
    places = [somebody.home, somebody.scratch, REPOSITORY, Path.home(), Path(sys.prefix)]
    needles = [str(place).encode() + b"/" for place in places if len(place.parts) > 1] + [USER.encode()]
    host = socket.gethostname()
    # A name as short as "vm" is in many words.
    needles += [host.encode()] if len(host) > 5 else []
    pattern = re.compile(b".{0,40}(?:" + b"|".join(map(re.escape, needles)) + b").{0,40}")
    return [(name, match.group()) for name, content in files.items() if (match := pattern.search(content))]
