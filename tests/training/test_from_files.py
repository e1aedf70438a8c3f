"""A file never decides what is connected to."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from distnum import Config, InputError
from distnum.cli.commands import COMMANDS
from distnum.cli.options import parsed
from distnum.cli.submit.command import submitted_command
from distnum.training.from_files import check_local, without_connections

CLUSTER = Config(workers=4, address="head:6379")


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """No session that the user has chosen."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))


def test_an_address_without_a_word_of_the_user_is_refused() -> None:
    with pytest.raises(InputError, match=r"^run/config.toml: address is 'head:6379', but .* give --address head:6379 "):
        without_connections(CLUSTER, {"steps": 5}, "run/config.toml")


@pytest.mark.parametrize("given", [{"address": "other:1"}, {"address": None}, {"workers": "0"}, {"workers": 0}])
def test_an_address_is_left_out_once_the_user_says_where_to_compute(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert without_connections(CLUSTER, given, "c.toml") == Config(workers=4)
    assert not caplog.records


def test_workers_on_this_machine_instead_of_a_cluster_are_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert without_connections(CLUSTER, {"workers": "2"}, "c.toml").address is None
    assert "c.toml names the Ray cluster at head:6379; without --address it is not used" in caplog.text


def test_a_session_that_the_user_has_chosen_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RAY_ADDRESS", "mine:6379")
        assert without_connections(CLUSTER, {}, "c.toml").address is None
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    assert without_connections(CLUSTER, {}, "c.toml").address is None


REMOTE = ["http://h/d.npz", "s3://bucket/d", "simplecache::s3://b/d", "file://a::http://h/d", "FTP://h/d", "memory://d"]


@pytest.mark.parametrize("data", REMOTE)
def test_data_elsewhere_are_refused_unless_they_are_given_again(data: str) -> None:
    config = Config(data=data)
    with pytest.raises(InputError, match="a file does not decide where to connect to; give --data"):
        without_connections(config, {}, "c.toml")
    assert without_connections(config, {"data": data}, "c.toml") == config


@pytest.mark.parametrize("data", ["mnist-10k", "folder/d.npz", "/folder", "file:///d.npz", "local:///d", "arrays"])
def test_data_on_this_machine_are_read(data: str) -> None:
    check_local(data, "c.toml")


def test_the_advice_can_be_copied_into_a_shell() -> None:
    with pytest.raises(InputError) as caught:
        check_local("http://h/;reboot", "c.toml")
    assert "give --data 'http://h/;reboot' to read" in str(caught.value)


def test_a_command_for_a_cluster_takes_no_address_from_a_config_file(tmp_path: Any) -> None:
    (tmp_path / "c.toml").write_text('address = "head:6379"\nworkers = 4\n')
    options = parsed(["submit", "--config", str(tmp_path / "c.toml")], COMMANDS)
    assert submitted_command(options) == ["train", "--workers", "4"]
    (tmp_path / "c.toml").write_text('data = "s3://bucket/d"\n')
    with pytest.raises(InputError, match="a file does not decide where to connect to"):
        submitted_command(options)
