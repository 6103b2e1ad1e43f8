"""The file of the run's secret, which neighbours prove to know when they shake hands."""

from __future__ import annotations

import os
from pathlib import Path

_MIN_SECRET_BYTES = 32


class SecretFileError(ValueError):
    """The file of the run's secret cannot be used; the text names it and says what is allowed."""


def read_secret(path: Path) -> bytes:
    """Read the run's secret.

    Raises
    ------
    SecretFileError
        When the file is missing or too short, belongs to another user, or is open to others.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            secret = file.read(4096).strip()
    except OSError as error:
        raise SecretFileError(
            f"{path}: the run's secret cannot be read: {error.strerror}"
        ) from error
    if status.st_mode & 0o077:
        raise SecretFileError(
            f"{path}: has mode {status.st_mode & 0o777:04o}; only its owner may access the run's "
            "secret: 0600"
        )
    if status.st_uid != os.geteuid():
        raise SecretFileError(
            f"{path}: belongs to user {status.st_uid}; the run's secret must belong to the user "
            f"who runs the stage: {os.geteuid()}"
        )
    if len(secret) < _MIN_SECRET_BYTES:
        raise SecretFileError(
            f"{path}: holds {len(secret)} bytes; a secret has at least {_MIN_SECRET_BYTES}"
        )
    return secret
