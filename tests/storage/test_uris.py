"""URIs that hold a secret are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import distnum
from distnum import InputError
from distnum.datasets.readers import load_data
from distnum.storage.remote import open_file_system
from distnum.storage.run_folder import RunFolder
from distnum.storage.uris import check_no_password


@pytest.mark.parametrize(
    "address",
    [
        "https://bucket.s3.amazonaws.com/x.npz?X-Amz-Date=1&X-Amz-Signature=0a1b",
        "https://account.blob.core.windows.net/c/x.npz?sv=2024&sig=0a1b",
        "https://host/x.npz?0a1b",
        "https://host/x.npz?design=0a1b",
        "https://host?dl=0a1b",
        "https://host/x.npz#access_token=0a1b",
        "https://host/x.npz%3Fsig=0a1b",
        "https://0a1b@host/x.npz",
        "https://user:0a1b@host/x.npz",
        "https://user:0a1b%40host/x.npz",
        "https://user%3A0a1b%40host/x.npz",
        "https://user:0a/1b@host/x?0a1b",
        "HTTP://0a1b@host/x.npz",
        "Https://host/x.npz?k=0a1b",
        " https://host/x.npz?k=0a1b",
        "https:/user:0a1b@host/x.npz",
        "https:\\\\user:0a1b@host\\x.npz",
        "https://host\\@user:0a1b@host/x.npz",
        "filecache::https://0a1b@host/x.npz",
        "simplecache::https://host/x.npz?k=0a1b",
        "zip://x.npz::https://host/x.zip?k=0a1b",
        "zip://x.npz::simplecache::HTTPS://host/x.zip#0a1b",
        "https://proxy/https://user:0a1b@host/x.npz",
    ],
)
def test_an_http_address_with_more_than_host_and_path_is_refused_and_not_shown(address: str) -> None:
    for use in (lambda: check_no_password(address, "data"), lambda: load_data(address)):
        with pytest.raises(InputError, match="data is an http address with more than a host") as refused:
            use()
        assert "0a1b" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "sftp://user:0a1b@host/run",
        "sftp://:0a1b@host/run",
        "sftp://user@mail.com:0a1b@host/run",
        "sftp://user:0a1b@[::1]/run",
        "sftp://user:0a1b%40host/run",
        "sftp://user%3A0a1b@host/run",
        "sftp://user:pa/0a1b@host/run",
        "SFTP://user:0a1b@host/run",
        "simplecache::ftp://user:0a1b@host/run",
        "s3://bucket/x.npz?X-Amz-Signature=0a1b",
        "s3://bucket/x.npz?accessToken=0a1b",
        "abfs://container@account/x?sv=1&sig=0a1b",
        "gs://bucket/x#token=0a1b",
        "zip://x?pwd=0a1b::s3://bucket/x.zip",
    ],
)
def test_a_uri_with_a_password_or_a_signature_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(InputError, match="out is a URI that holds a password or a signature") as refused:
        check_no_password(uri, "out")
    assert "0a1b" not in str(refused.value)


@pytest.mark.parametrize(
    "fine",
    [
        "abfs://container@account.dfs.core.windows.net/run",
        "https://host/x.npz",
        "https://host:8080/a@1.2/x%20y.npz",
        "http://[::1]:8080/x.npz",
        "http://10.0.0.1",
        "zip://x.npz::https://host/x.zip",
        "github://org:repo@branch/path/x.npz",
        "simplecache::github://org:repo@v1.0/x.npz",
        "sftp://user@host/run",
        "sftp://user@host:2022/run@2",
        "sftp://[::1]:22/run@2",
        "sftp://user@[::1]:22/run@2",
        "hdfs://namenode:8020/data@1",
        "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/name/a@b",
        "s3://bucket/x.npz?versionId=1&monkey=2",
        "s3://bucket/a:b@c",
        "file://C:/runs/a@b",
        "file://C:\\runs\\a@b",
        "runs/a?key=1",
        "s3://b/x",
        None,
    ],
)
def test_uris_without_secrets_are_accepted(fine: str | None) -> None:
    check_no_password(fine, "out")


@pytest.mark.parametrize(
    "uri", ["HTT\nPS://a:0a1b@host", "https://a:\r:0a1b@host/x", "sftp:/%00/a:0a1b@host", "s3://b\t"]
)
def test_a_uri_with_a_control_character_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(InputError, match="out is a URI that holds a control character") as refused:
        check_no_password(uri, "out")
    assert "0a1b" not in str(refused.value)


def test_a_uri_of_github_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    github = pytest.importorskip("fsspec.implementations.github")
    monkeypatch.setattr(github.GithubFileSystem, "ls", lambda *arguments, **options: [])  # asks the server
    fs, path = open_file_system("github://org:repo@branch/path", "data")
    assert (fs.org, fs.repo, fs.root, path) == ("org", "repo", "branch", "path")


def test_every_way_in_refuses_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = "https://host/run?k=0a1b"
    for use in (
        lambda: RunFolder.look(address),
        lambda: distnum.train(out=address, steps=1, workers=0),
        lambda: distnum.train(data=address, steps=1, workers=0, out="run"),
    ):
        with pytest.raises(InputError, match="is an http address") as refused:
            use()
        assert "0a1b" not in str(refused.value)
    assert not list(tmp_path.iterdir())
