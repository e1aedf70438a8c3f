"""What travels to a cluster with a script: the files of its folder, and remarks if they look secret or are many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path

__all__ = ["remarks_on", "sent_files"]

_MANY_BYTES = 100 * 10**6

# Names of files and folders that usually hold passwords, tokens or private keys, in lower case.
_SECRET = (
    *(".env", ".env.*", "*.env", ".netrc", "_netrc", ".pgpass", ".git-credentials", ".npmrc", ".pypirc", "auth_token"),
    *("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx"),
    *("credentials", "credentials.json", "service-account*.json", ".aws", ".ssh", ".gnupg", ".kube"),
)
_HARMLESS = (".env.example", ".env.sample", ".env.template")


def sent_files(folder: Path, excludes: Sequence[str] = ()) -> list[Path]:
    """Return the files of a folder that Ray sends as a job's working directory.

    They are listed by Ray's own code, so that ``.gitignore``, ``.rayignore`` and Ray's settings in the environment
    count as they do when the folder is packed.

    Args:
        folder: The folder.
        excludes: As in Ray's runtime environment.
    """
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    folder = folder.absolute()
    by_default: list[str] = getattr(ray_constants, "get_runtime_env_default_excludes", list)()  # new in Ray 2.5x
    files: list[Path] = []
    packaging._dir_travel(
        folder,
        [packaging._get_excludes(folder, [*by_default, *excludes])],
        lambda path: files.append(path) if path.is_file() else None,
        include_gitignore=os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1",
    )
    return files


def remarks_on(folder: Path, files: Iterable[Path], token_file: Path | None = None) -> list[str]:
    """Return a line if some of the files look secret or are the cluster's token, and one if they are large.

    Args:
        folder: The folder of the script.
        files: The files in it that are sent.
        token_file: The file of the cluster's token, if one is used.
    """
    files, remarks = list(files), []
    token = None if token_file is None else token_file.resolve()
    secret = [
        path
        for path in files
        if path.resolve() == token or any(map(_looks_secret, path.relative_to(folder.absolute()).parts))
    ]
    ignore_file = folder / ".rayignore"
    if secret:
        names = ", ".join(str(path.relative_to(folder.absolute())) for path in secret[:3])
        more = f" and {len(secret) - 3} more" if len(secret) > 3 else ""
        remarks.append(
            f"{names}{more} may be secret, and is sent with the script to the cluster, whose users can read it; list "
            f"in {ignore_file} what must stay here."
        )
    n_bytes = sum(path.stat().st_size for path in files)
    if n_bytes > _MANY_BYTES:
        remarks.append(
            f"{n_bytes / 10**6:,.0f} MB in {len(files):,} files are sent with the script to the cluster; list in "
            f"{ignore_file} what it does not need."
        )
    return remarks


def _looks_secret(name: str) -> bool:
    name = name.lower()
    return name not in _HARMLESS and any(fnmatch(name, pattern) for pattern in _SECRET)
