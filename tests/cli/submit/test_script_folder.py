"""What is sent with a script, and the warnings about it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from distnum import InputError
from distnum.cli.submit import client, connection, script_folder
from distnum.cli.submit.client import Cluster
from distnum.cli.submit.script_folder import remarks_on, sent_files

SECRET = (".env", ".env.local", "deploy.key", "a/id_rsa", "a/server.PEM", ".aws/credentials", "credentials.json")
SECRET += (".netrc", ".git-credentials", "service-account-1.json", ".ssh/config")
PLAIN = ("train.py", "data/x.npz", ".env.example", "keys.py", "environment.yml", "monkey.png", "pemberton.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*SECRET, *PLAIN):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("content")
    return tmp_path


def remarks(folder: Path, token_file: Path | None = None) -> list[str]:
    return remarks_on(folder, sent_files(folder), token_file)


@pytest.mark.parametrize("name", SECRET)
def test_a_file_that_looks_secret_is_named(name: str, folder: Path) -> None:
    (folder / ".rayignore").write_text("\n".join(other for other in SECRET if other != name))
    assert remarks(folder) == [
        f"{name} may be secret, and is sent with the script to the cluster, whose users can read it; list in "
        f"{folder}/.rayignore what must stay here."
    ]


def test_plain_files_and_ignored_ones_cause_no_remark(folder: Path) -> None:
    assert "and 8 more may be secret" in remarks(folder)[0]
    (folder / ".gitignore").write_text("\n".join(SECRET[:4]))
    (folder / "a" / ".rayignore").write_text("*.PEM")
    (folder / ".rayignore").write_text("\n".join(SECRET[5:]))
    assert remarks(folder) == []


def test_the_token_of_the_cluster_is_named_whatever_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".rayignore").write_text("\n".join(SECRET))
    monkeypatch.chdir(folder)
    assert "keys.py may be secret" in remarks(folder, Path("keys.py"))[0]
    assert remarks(folder, Path("/nowhere/token")) == []


def test_more_than_100_mb_are_reported(folder: Path) -> None:
    (folder / ".rayignore").write_text("\n".join(SECRET))
    for name in ("one.npz", "two.npz"):
        with (folder / name).open("wb") as file:
            file.truncate(60 * 10**6)
    assert f"120 MB in {len(PLAIN) + 3} files are sent with the script" in remarks(folder)[0]
    (folder / ".gitignore").write_text("two.npz")
    assert remarks(folder) == []


def test_the_files_are_those_that_ray_packs(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    (folder / ".rayignore").write_text("*.npz\n")
    (folder / "a" / ".gitignore").write_text("id_*\n")
    (folder / "venv").mkdir()
    (folder / "venv" / "big").write_text("")
    (folder / "link").symlink_to(folder / "train.py")
    excludes = client._runtime_env()["excludes"]
    package = tmp_path_factory.mktemp("packed") / "package.zip"
    create_package(
        str(folder), package, include_gitignore=True, excludes=[*get_runtime_env_default_excludes(), *excludes]
    )
    packed = [name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")]
    assert sorted(packed) == sorted(str(path.relative_to(folder)) for path in sent_files(folder, excludes))
    assert "link" in packed
    assert "venv/big" not in packed


def test_submitting_warns_before_anything_is_sent(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster.__new__(Cluster)
    cluster._token_file = None
    monkeypatch.setattr(Cluster, "_send", lambda self, **job: (_ for _ in ()).throw(InterruptedError))
    with pytest.raises(InterruptedError):
        cluster.submit([], folder / "train.py")
    (line,) = [record.getMessage() for record in caplog.records]
    assert ".env" in line
    assert "\n" not in line


def test_a_folder_that_cannot_be_listed_is_bad_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster.__new__(Cluster)
    cluster._token_file = None

    def fails(folder: Path, excludes: object) -> list[Path]:
        raise PermissionError(13, "Permission denied", "a")

    monkeypatch.setattr(client, "sent_files", fails)
    with pytest.raises(InputError, match=r"script is in .* which cannot be sent: .* Permission denied"):
        cluster.submit([], folder / "train.py")


def test_a_folder_that_is_too_large_for_ray_is_refused_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="ray[default] is not installed")
    made = connection._client_class().__new__(connection._client_class())
    with pytest.raises(InputError, match="a folder of 101 MiB as packed, but Ray takes 100 MiB at most"):
        made._do_request("PUT", "/api/packages/gcs/x.zip", data=bytes(101 * 2**20))


def test_names_that_only_look_similar_are_not_secret() -> None:
    assert not any(map(script_folder._looks_secret, ("x.envelope", "key", "pem", "token.py", ".environment")))
