"""Starts Ray on this machine alone, for the replicas of one server, and ends exactly the processes that it started."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from .proxy_errors import CALLBACK, CALLBACK_VARIABLE

# The ports that Ray would take at fixed numbers, or would wait for in vain on a slow machine: where they are given,
# the raylet does not wait for its agents to say which ones they took (15 s, then it gives up).
_PORTS = (
    "--port",
    "--ray-client-server-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--metrics-export-port",
)
_STARTED = "Ray runtime started"
# Asks Linux for SIGTERM when the process that started this one has died (prctl's PR_SET_PDEATHSIG), then becomes the
# command.
_ENDING_WITH_ITS_PARENT = (
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); os.execv(sys.argv[1], sys.argv[1:])"
)
# Ray Serve ends a proxy that is not ready within 5 s, which a slow machine needs for its imports alone.
_PROXY_READY_SECONDS = "120"
_KILL_SECONDS = 10.0


class RayStartError(Exception):
    """Ray did not start; the message says why, and where its logs are."""


class RayHead:
    """A Ray of its own on this machine, for one server. Make it with [`RayHead.start`].

    Attributes:
        address (`str`): for `ray.init`.
        metrics_port (`int`): where Prometheus finds Ray's own metrics.
        folder (`Path`): logs, sockets and the token that connections need; gone after [`stop`].
    """

    def __init__(self, process: subprocess.Popen, address: str, metrics_port: int, folder: Path) -> None:
        self.address, self.metrics_port, self.folder = address, metrics_port, folder
        self._process = process
        self._is_stopped = False

    @classmethod
    def start(
        cls, environment: Mapping[str, str], wait: Callable[[float], object] = time.sleep, timeout: float = 600.0
    ) -> "RayHead":
        """Start Ray, and wait until it runs.

        Args:
            environment (`Mapping`): of its processes, so also of the replicas.
            wait (`Callable`): called with seconds between looks; what it raises ends the start.
            timeout (`float`): seconds to wait.

        Returns:
            `RayHead`

        Raises:
            RayStartError: it did not start.
        """
        folder = Path(tempfile.mkdtemp(prefix="groma-ray-"))
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        log = folder / "start.log"
        command = ending_with_this_process([sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"])
        command += ["--log-style", "record"]
        command += ["--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--disable-usage-stats"]
        command += ["--temp-dir", str(folder), *(str(word) for item in ports.items() for word in item)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**environment, **connection_variables(folder), CALLBACK_VARIABLE: CALLBACK}
                | {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": _PROXY_READY_SECONDS},
                start_new_session=True,  # all its processes can be found by it, and Ctrl-C reaches this process alone
            )
        head = cls(process, f"127.0.0.1:{ports['--port']}", ports["--metrics-export-port"], folder)
        try:
            head._wait_until_started(log, wait, timeout)
        except RayStartError:
            head.stop(keep_logs=True)
            raise
        except BaseException:
            head.stop()
            raise
        return head

    @property
    def is_running(self) -> bool:
        """Whether Ray still runs."""
        return self._process.poll() is None

    def stop(self, keep_logs: bool = False) -> None:
        """End all processes that belong to it, and no other; a second time does nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        # Ray's own way ends every Ray of this machine (`ray stop`), or waits for half a minute (SIGTERM). Its first
        # process is not waited for before all others are gone, so that no stranger's session can have its number.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        end = time.monotonic() + _KILL_SECONDS
        # Replicas and proxies have process groups of their own.
        while (left := session_processes(self._process.pid)) and time.monotonic() < end:
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.05)
        self._process.wait()
        if not keep_logs:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_until_started(self, log: Path, wait: Callable[[float], object], timeout: float) -> None:
        end = time.monotonic() + timeout
        while _STARTED not in (text := log.read_text(errors="replace")):
            if not self.is_running:
                lines = [line for line in text.splitlines() if line.strip()]
                reason = lines[-1].strip() if lines else f"exit code {self._process.returncode}"
                raise RayStartError(f"Ray did not start ({reason[:300]}). Its logs are in {self.folder}.")
            if time.monotonic() > end:
                raise RayStartError(f"Ray did not start within {timeout:g} s. Its logs are in {self.folder}.")
            wait(0.1)


def connection_variables(folder: Path) -> dict[str, str]:
    """What the environment of a process needs to connect to the Ray of a folder, before it imports ray."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}


def ending_with_this_process(command: list[str]) -> list[str]:
    """The command, which on Linux gets SIGTERM when this process dies, even by SIGKILL."""
    return [sys.executable, "-c", _ENDING_WITH_ITS_PARENT, *command] if sys.platform == "linux" else command


def session_processes(session: int) -> list[int]:
    """The processes of a session (see `setsid`), by number; those that have ended and wait for their parent not."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc/self/stat").exists() else ():
        with suppress(OSError, IndexError, ValueError):
            # After the name in brackets, which may hold anything: state, parent, group, session.
            state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(entry.name))
    return found


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


__all__ = ["RayHead", "RayStartError", "connection_variables", "ending_with_this_process", "session_processes"]
