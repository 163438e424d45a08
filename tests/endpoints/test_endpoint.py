"""Endpoint settings: invalid addresses, keys and times are refused without showing the key."""

import pytest

from transformers_groma.endpoints.endpoint import Endpoint, read_api_key


@pytest.mark.parametrize("key", ["se cret", "secret\n", "sécret", "secret\x00", "\u200bsecret"])
def test_keys_that_no_header_can_hold(key, monkeypatch):
    with pytest.raises(ValueError, match="`api_key` holds spaces, line breaks or characters") as error:
        Endpoint("stub", api_key=key)
    assert "cret" not in str(error.value)
    if "\x00" not in key:
        monkeypatch.setenv("STUB_KEY", f"{key}x")
        with pytest.raises(ValueError, match="variable STUB_KEY holds spaces"):
            read_api_key("STUB_KEY", None)
    monkeypatch.setenv("STUB_KEY", " secret\n")
    assert read_api_key("STUB_KEY", None) == "secret"


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        ("localhost:8000/v1", "not an http or https address"),
        ("ftp://host/v1", "not an http or https address"),
        ("http://", "not an http or https address"),
        ("http://host:99999/v1", "not an http or https address"),
        ("http://[host/v1", "not an http or https address"),
        ("http://host /v1", "not an http or https address"),
        ("http://user:secret@host/v1", "holds a user name"),
        ("http://secret@host/v1", "holds a user name"),
        ("http://host/v1?api_key=secret", "holds a user name"),
        ("http://host/v1#secret", "holds a user name"),
    ],
)
def test_addresses(base_url, message):
    with pytest.raises(ValueError, match=message) as error:
        Endpoint("stub", base_url=base_url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"timeout": 0}, "`timeout` must be a positive number"),
        ({"timeout": float("nan")}, "`timeout` must be a positive number"),
        ({"deadline": float("inf")}, "`deadline` must be a positive number"),
        ({"deadline": -1}, "`deadline` must be a positive number"),
        ({"max_retries": -1}, "`max_retries` must not be negative"),
    ],
)
def test_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        Endpoint("stub", **setting)
    assert Endpoint("stub", timeout=0.1, deadline=0.1, max_retries=0).max_retries == 0


def test_key_from_the_environment(monkeypatch):
    monkeypatch.setenv("STUB_KEY", "secret")
    assert read_api_key("STUB_KEY", None) == "secret"
    monkeypatch.delenv("STUB_KEY")
    with pytest.raises(ValueError, match="variable STUB_KEY holds no key"):
        read_api_key("STUB_KEY", None)


def test_settings_that_are_left_out():
    endpoint = Endpoint("stub")
    assert (endpoint.base_url, endpoint.api_key, endpoint.options) == (None, "none", {})
    assert (endpoint.timeout, endpoint.max_retries, endpoint.deadline) == (120.0, 5, 600.0)
    assert "none" not in repr(Endpoint("stub", "http://host/v1", "none"))  # a key is not shown
