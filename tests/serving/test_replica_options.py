"""What Ray Serve is told about replicas."""

import pytest

from transformers_groma.serving.replica_options import (
    ReplicaCount,
    deployment_file,
    deployment_options,
    read_replica_count,
)

RESOURCES = {"cpus": 2.0, "gpus": 0.5, "max_running": 8, "max_waiting": 64, "shutdown_timeout": 30.0}


@pytest.mark.parametrize(("text", "least", "most"), [("1", 1, 1), ("12", 12, 12), ("1-4", 1, 4), ("3-3", 3, 3)])
def test_numbers_of_replicas(text, least, most):
    count = read_replica_count(text)
    assert (count.least, count.most, count.is_fixed) == (least, most, least == most)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "answer nobody"),
        ("0-3", "answer nobody"),
        ("4-1", "write the smaller number first, 1-4"),
        ("two", "is not a number of replicas: write 2, or 1-4"),
        ("-1", "is not a number of replicas"),
        ("1-", "is not a number of replicas"),
        ("1.5", "is not a number of replicas"),
        ("", "is not a number of replicas"),
    ],
)
def test_what_is_not_a_number_of_replicas(text, words):
    with pytest.raises(ValueError, match=words):
        read_replica_count(text)


def test_a_count_is_written_as_it_is_read():
    assert [str(read_replica_count(text)) for text in ("2", "1-4")] == ["2", "1-4"]


def test_the_engine_refuses_before_the_proxy_does():
    """The proxy hands on more than an engine takes, so that clients get the API's own error."""
    options = deployment_options(ReplicaCount(2, 2), **RESOURCES)
    assert options["num_replicas"] == 2 and "autoscaling_config" not in options
    assert options["max_ongoing_requests"] > 8 + 64
    assert options["max_queued_requests"] > 0
    assert options["backpressure_config"] == {"status_code": 503, "retry_after_s": 1.0}
    assert options["ray_actor_options"] == {"num_cpus": 2.0, "num_gpus": 0.5}
    assert options["graceful_shutdown_timeout_s"] == 30.0


def test_a_range_is_for_ray_to_choose_from():
    options = deployment_options(ReplicaCount(1, 4), **RESOURCES)
    assert "num_replicas" not in options
    scaling = options["autoscaling_config"]
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (1, 4)
    assert scaling["target_ongoing_requests"] == 8  # a full batch


def test_the_file_names_the_builder_and_the_address():
    options = deployment_options(ReplicaCount(2, 2), **RESOURCES)
    content = deployment_file({"model": "groma-7b"}, options, "0.0.0.0", 8123)
    assert content["http_options"] == {"host": "0.0.0.0", "port": 8123}
    (application,) = content["applications"]
    module, name = application["import_path"].split(":")
    assert callable(getattr(__import__(module, fromlist=[name]), name))
    assert application["args"] == {"model": "groma-7b"} and application["route_prefix"] == "/"
    assert application["deployments"] == [{"name": "Groma", **options}]
