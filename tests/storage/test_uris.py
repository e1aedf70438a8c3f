"""URIs that hold a secret are refused."""

from __future__ import annotations

import pytest

from distnum import InputError
from distnum.storage.uris import check_no_password


@pytest.mark.parametrize(
    "signed",
    [
        "https://bucket.s3.amazonaws.com/x.npz?X-Amz-Date=1&X-Amz-Signature=0a1b",
        "https://account.blob.core.windows.net/c/x.npz?sv=2024&sig=0a1b",
        "https://storage.googleapis.com/b/x.npz?GoogleAccessId=me&Signature=0a1b",
        "http://host/x.npz?token=0a1b",
        "https://0a1b@host/x.npz",
        "filecache::https://0a1b@host/x.npz",
        "https://host/x.npz?accessToken=0a1b",
    ],
)
def test_a_signed_link_is_refused_and_not_shown(signed: str) -> None:
    with pytest.raises(InputError, match="data is a URI that holds a password or a signature") as refused:
        check_no_password(signed, "data")
    assert "0a1b" not in str(refused.value)


@pytest.mark.parametrize(
    "fine",
    [
        "abfs://container@account.dfs.core.windows.net/run",
        "https://host/x.npz?design=1&monkey=2",
        "runs/a?key=1",
        "s3://b/x",
        None,
    ],
)
def test_uris_without_secrets_are_accepted(fine: str | None) -> None:
    check_no_password(fine, "out")
