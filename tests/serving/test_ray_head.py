"""Starting and ending Ray, with a program in its place that starts processes as Ray does."""

import os
import subprocess
import sys
import textwrap
import time

import pytest

from transformers_groma.serving.ray_head import RayHead, RayStartError, connection_variables, session_processes

# A child in a process group of its own, as workers of Ray have, and neither ends by SIGTERM.
PROGRAM = """
    import os, signal, subprocess, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen([sys.executable, "-c", "import os, time; os.setpgid(0, 0); time.sleep(60)"])
    print(os.environ["RAY_AUTH_MODE"], os.environ["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"], *sys.argv, flush=True)
    print("Ray runtime started.", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def ray_is(tmp_path, monkeypatch):
    """Puts a program in the place of Python with Ray."""

    def put(text: str) -> None:
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(text))
        starter = tmp_path / "starter"
        starter.write_text(f'#!/bin/sh\nexec {sys.executable} {program} "$@"\n')
        starter.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(starter))
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    return put


needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="processes are found in /proc")


@needs_proc
def test_it_starts_and_ends_with_all_its_processes(ray_is):
    ray_is(PROGRAM)
    head = RayHead.start(os.environ, timeout=30)
    session = head._process.pid
    text = (head.folder / "start.log").read_text()
    assert head.is_running and text.startswith("token transformers_groma.serving.proxy_errors:proxy_middleware")
    assert f"--port {head.address.rpartition(':')[2]} " in text
    token = head.folder / "token"
    assert connection_variables(head.folder)["RAY_AUTH_TOKEN_PATH"] == str(token)
    assert token.stat().st_mode & 0o777 == 0o600 and token.read_text() not in text
    end = time.monotonic() + 20
    while len(session_processes(session)) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    assert len(session_processes(session)) == 2
    head.stop()
    assert session_processes(session) == [] and not head.folder.exists() and not head.is_running
    head.stop()


def test_why_it_does_not_start(ray_is):
    ray_is('import sys; print("The port is taken.\\n"); sys.exit(1)')
    with pytest.raises(RayStartError, match=r"Ray did not start \(The port is taken\.\)\. Its logs are in ") as raised:
        RayHead.start(os.environ, timeout=30)
    assert "start.log" in os.listdir(str(raised.value).rpartition(" ")[2].rstrip("."))


@needs_proc
def test_a_start_that_takes_too_long_or_is_interrupted(ray_is, tmp_path):
    ray_is("import time; time.sleep(60)")
    with pytest.raises(RayStartError, match=r"within 0\.2 s"):
        RayHead.start(os.environ, timeout=0.2)
    (kept,) = tmp_path.glob("groma-ray-*")  # its logs
    started = []

    def interrupt(seconds: float) -> None:
        started.extend(each for each in tmp_path.glob("groma-ray-*") if each != kept)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RayHead.start(os.environ, interrupt)
    assert len(started) == 1 and not started[0].exists()


@needs_proc
def test_it_does_not_outlive_the_server():
    """Not even one that is killed, which can stop nothing."""
    program = """
        import subprocess, sys, time
        from transformers_groma.serving.ray_head import ending_with_this_process
        command = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
        child = subprocess.Popen(ending_with_this_process(command), start_new_session=True, stdout=subprocess.PIPE)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(60)
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        session = int(server.stdout.readline())
        assert session_processes(session) == [session]
        server.kill()
    end = time.monotonic() + 20
    while session_processes(session) and time.monotonic() < end:
        time.sleep(0.05)
    assert session_processes(session) == []
