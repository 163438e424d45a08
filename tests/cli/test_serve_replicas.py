"""`groma serve --replicas` as far as no Ray is needed: what is refused before one starts, and the file it writes."""

import socket

import pytest
import yaml

from transformers_groma.cli import build_parser, serve_replicas
from transformers_groma.cli.arguments import CommandError
from transformers_groma.cli.ray_serve import read_values
from transformers_groma.cli.run_replicas import check_room, resources_of
from transformers_groma.cli.serve_replicas import missing_packages
from transformers_groma.serving.replica_options import ReplicaCount

LM = ["--lm-url", "http://lm:8001/v1"]
needs_ray_serve = pytest.mark.skipif(bool(missing_packages()), reason="ray[serve] is not installed")


@pytest.fixture(autouse=True)
def no_ray(monkeypatch):
    """Nothing here gets as far as Ray."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(serve_replicas, "missing_packages", list)

    def start(*arguments):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(serve_replicas, "serve_until_signal", start)


def error_of(run, *arguments) -> str:
    code, out, err = run("serve", *arguments)
    lines = [line for line in err.splitlines() if not line.startswith("using the tiny model")]
    assert (code, out) == (2, "") and len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replicas", "0"], "answer nobody"),
        (["--replicas", "4-1"], "write the smaller number first"),
        (["--replicas", "many"], "is not a number of replicas"),
        (["--replicas", "2", "--cpus-per-replica", "0"], "positive number"),
        (["--replicas", "2", "--gpus-per-replica", "-1"], "--gpus-per-replica"),
        (["--cpus-per-replica", "2"], "--cpus-per-replica is about replicas: pass --replicas too"),
        (["--gpus-per-replica", "2"], "--gpus-per-replica is about replicas"),
        (["--write-config", "x.yaml"], "--write-config is about replicas"),
        (["--replicas", "2", "--write-config", "x.yaml", "--port", "0"], "a file names one: pass --port 8000"),
        (["--replicas", "2", "--write-timeout", "5"], "--write-timeout has no effect with --replicas"),
        (["--replicas", "2", "--device", "cuda:1"], "names one device, and replicas have one each: pass cuda"),
        (["--replicas", "2", "--device", "cpu", "--gpus-per-replica", "1"], "--device cpu needs no GPU"),
        (["--replicas", "2", "--max-held-mb", "1"], "one request may hold"),
        (["--replicas", "2", "--model", "/no/such/model"], "is not a folder"),
        (["--replicas", "2", "--api-key-file", "/no/keys.txt"], "No such file"),
        (["--replicas", "2", "--lm-model", "lm"], "--lm-model is about a language server: pass --lm-url as well"),
        (["--replicas", "2", "--lm-timeout", "3", "--write-config", "x.yaml"], "--lm-timeout is about a language"),
        (["--replicas", "2", "--lm-url", "localhost"], "is not the base URL of a language server"),
        (["--replicas", "2", "--device", "warp"], "--device 'warp' cannot be used"),
    ],
)
def test_mistakes_end_before_anything_starts(run, arguments, words):
    assert words in error_of(run, *arguments)


def test_a_port_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port {port} cannot be used (Address already in use)" in error_of(
            run, "--replicas", 2, "--port", port
        )


def test_without_the_extra(run, monkeypatch):
    monkeypatch.setattr(serve_replicas, "missing_packages", lambda: ["opencensus", "watchfiles"])
    assert error_of(run, "--replicas", 2, "--port", 0) == (
        "groma serve: error: groma serve --replicas needs the package opencensus: pip install "
        '"transformers-groma[serve,scale]".'
    )


def test_a_key_in_the_environment_does_not_reach_a_ray_elsewhere(run, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("GROMA_API_KEY", "sk-secret")
    message = error_of(run, "--replicas", 2, "--port", 0)
    assert "where the replicas of RAY_ADDRESS 10.0.0.1:6379 cannot read it: pass --api-key-file" in message
    assert "secret" not in message


def test_the_key_of_a_language_server_does_not_reach_a_ray_elsewhere(run, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("GROMA_LM_API_KEY", "sk-secret")
    message = error_of(run, "--replicas", 2, "--port", 0, "--lm-url", "http://lm:8001/v1")
    assert "GROMA_LM_API_KEY is set here, where the replicas of RAY_ADDRESS 10.0.0.1:6379 cannot read it" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("arguments", "running"),
    [([], 8), (["--max-batch-size", 3], 3), ([*LM, "--max-batch-size", 3], 256), ([*LM, "--lm-max-running", 30], 30)],
)
def test_a_replica_takes_as_many_requests_as_its_engine(run, tmp_path, monkeypatch, arguments, running):
    """With a language server that is more than a batch of images."""
    monkeypatch.setenv("GROMA_LM_API_KEY", "sk-secret")
    (application,) = written(run, tmp_path, "--replicas", "1-2", "--max-waiting", 10, *arguments)["applications"]
    (deployment,) = application["deployments"]
    assert deployment["max_ongoing_requests"] == 2 * (running + 10)
    assert deployment["autoscaling_config"]["target_ongoing_requests"] == running
    assert read_values(application["args"]).lm_url == (LM[1] if LM[0] in arguments else None)


def written(run, tmp_path, *arguments) -> dict:
    path = tmp_path / "serve.yaml"
    code, out, err = run("serve", *arguments, "--write-config", path)
    assert (code, out) == (0, "") and err.endswith(f"groma serve: wrote {path}\n")
    assert "secret" not in path.read_text()
    return yaml.safe_load(path.read_text())


def test_the_file_for_serve_deploy(run, tmp_path, monkeypatch):
    (tmp_path / "keys.txt").write_text("sk-secret-1\n")
    monkeypatch.setenv("GROMA_API_KEY", "sk-secret-2")
    content = written(
        *(run, tmp_path, "--replicas", "1-4", "--device", "cuda", "--cpus-per-replica", 3, "--port", 8123),
        *("--api-key-file", tmp_path / "keys.txt", "--max-batch-size", 16, "--shutdown-timeout", 45),
    )
    (application,) = content["applications"]
    args = application["args"]
    assert content["http_options"] == {"host": "127.0.0.1", "port": 8123}
    assert args["api_key_file"] == str(tmp_path / "keys.txt") and args["needs_api_key"] is True
    read = read_values(args)
    assert (read.device, read.max_batch_size, read.served_name) == ("cuda", 16, "groma-tiny")
    (deployment,) = application["deployments"]
    assert deployment["ray_actor_options"] == {"num_cpus": 3.0, "num_gpus": 1.0}
    assert deployment["autoscaling_config"]["max_replicas"] == 4
    assert deployment["graceful_shutdown_timeout_s"] == 45.0


@pytest.mark.parametrize(
    ("arguments", "gpus"),
    [
        (["--device", "cpu"], 0.0),
        (["--device", "cuda"], 1.0),
        (["--device", "cuda", "--gpus-per-replica", "0.5"], 0.5),
        (["--gpus-per-replica", "2"], 2.0),
    ],
)
def test_gpus_of_each_replica(run, tmp_path, arguments, gpus):
    (application,) = written(run, tmp_path, "--replicas", 2, *arguments)["applications"]
    (deployment,) = application["deployments"]
    assert deployment["ray_actor_options"]["num_gpus"] == gpus and deployment["num_replicas"] == 2


@needs_ray_serve
@pytest.mark.parametrize("replicas", ["2", "1-3"])
def test_ray_accepts_the_file(run, tmp_path, replicas):
    from ray.serve import schema

    content = written(run, tmp_path, "--replicas", replicas, "--device", "cpu")
    (application,) = schema.ServeDeploySchema.model_validate(content).applications
    (deployment,) = application.deployments
    assert deployment.model_dump(exclude_unset=True) == content["applications"][0]["deployments"][0]
    unknown = set(content["applications"][0]["deployments"][0]) - set(schema.DeploymentSchema.model_fields)
    assert not unknown


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"CPU": 2.0}, None),
        ({"CPU": 1.0}, "--replicas 1-2 needs 2 CPUs, 1 for each, and this machine has 1: pass fewer replicas, or a"),
        ({}, "this machine has 0"),
    ],
)
def test_replicas_without_room_are_refused(cluster, words):
    def check():
        check_room(cluster, ReplicaCount(1, 2), {"cpus": 1.0, "gpus": 0.0}, own=True)

    if words is None:
        check()
    else:
        with pytest.raises(CommandError, match=words):
            check()
    with pytest.raises(CommandError, match="needs 2 GPUs, 1 for each, and the Ray cluster has 0"):
        check_room({"CPU": 8.0}, ReplicaCount(2, 2), {"cpus": 1.0, "gpus": 1.0}, own=False)


@pytest.mark.parametrize(
    ("words", "has_gpus", "gpus"),
    [
        ([], False, 0.0),
        ([], True, 1.0),
        (["--device", "cpu"], True, 0.0),
        (["--device", "cuda"], False, 1.0),  # the replicas' machines may have them
        (["--gpus-per-replica", "0.25"], True, 0.25),
    ],
)
def test_each_replica_has_a_gpu_where_there_are_gpus(words, has_gpus, gpus):
    arguments = build_parser().parse_args(["serve", "--replicas", "2", "--shutdown-timeout", "7", *words])
    assert resources_of(arguments, has_gpus) == {"cpus": 1.0, "gpus": gpus, "shutdown_timeout": 7.0}
