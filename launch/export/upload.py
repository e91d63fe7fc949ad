"""Exported folders as repositories of the Hugging Face hub, by huggingface_hub.

huggingface_hub is imported when a function is called: its constants are those of the environment then.
"""

from __future__ import annotations

import os
from pathlib import Path

from jobs.core.secrets import load_secrets
from launch.study.slurm_section import OFFLINE

NO_TOKEN = (
    "no token of the hub: make one with write access at {}/settings/tokens, then: hf auth login "
    "(or set HF_TOKEN)"
)
# Files of an earlier upload that this one replaces, and which may have had other names.
REPLACED = ("*.safetensors", "*.safetensors.index.json", "data/*.parquet")


def prepare(namespace: str, names: list[str]) -> str:
    """Set up huggingface_hub for uploads.

    Args:
        namespace: A user or an organization of the hub.
        names: Of the repositories.

    Returns:
        Why nothing can be uploaded; empty if it can be.
    """
    load_secrets()
    for name in OFFLINE:
        os.environ.pop(name, None)
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    for name in names:
        try:
            validate_repo_id(f"{namespace}/{name}")
        except HFValidationError as error:
            return f"the hub allows no repository {namespace}/{name}: {' '.join(str(error).split())}"
    return "" if get_token() else NO_TOKEN.format(constants.ENDPOINT)


def upload(namespace: str, folder: Path, *, dataset: bool) -> tuple[str, str]:
    """Upload a folder; a repository that is not there yet is made, private.

    Called again, it sends only files that the hub lacks. Files that an earlier export has uploaded and that
    this one no longer has are removed.

    Returns:
        The repository's address, and why the upload failed; empty if it did not.
    """
    from huggingface_hub import HfApi

    hub, kind = HfApi(), "dataset" if dataset else "model"
    name = f"{namespace}/{folder.name}"
    try:
        url = str(hub.create_repo(name, repo_type=kind, private=True, exist_ok=True))
        hub.upload_folder(
            repo_id=name, repo_type=kind, folder_path=folder, commit_message="Upload by sor export",
            ignore_patterns=[".*", "**/.*"], delete_patterns=list(REPLACED),
        )  # fmt: skip
    except Exception as error:  # of several libraries
        return "", _reason(error, name)
    return url, ""


def _reason(error: Exception, name: str) -> str:
    """Return why an upload failed, and what helps."""
    from huggingface_hub import constants, errors

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if status == 401:
        return f"the hub does not accept the token (401): hf auth login, or correct HF_TOKEN ({name})"
    if status == 403:
        words = "the token may not write there: it needs write access, and you that of the organization"
        return f"{name}: {words}; see {constants.ENDPOINT}/settings/tokens (403)"
    if status is not None:
        return f"{name}: the hub answered {status} ({_line(error)}): run this command again later"
    if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "requests"):
        return f"no network: {constants.ENDPOINT} cannot be reached ({_line(error)})"
    return f"{name}: {_line(error)}"


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
