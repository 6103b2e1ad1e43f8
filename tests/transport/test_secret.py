"""Which file may hold the run's secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from paretopipe_worker.transport.secret import SecretFileError, read_secret

SECRET = b"the secret of this launch, 64 long".ljust(64, b".")


def test_the_file_of_a_secret_must_be_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(SecretFileError, match=rf"{path}.*No such file"):
        read_secret(path)
    path.write_bytes(SECRET + b"\n")
    for mode in (0o644, 0o640, 0o602):
        path.chmod(mode)
        with pytest.raises(SecretFileError, match=rf"{path}: has mode {mode:04o}.*0600"):
            read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == SECRET
    path.write_bytes(b"short")
    with pytest.raises(SecretFileError, match=r"holds 5 bytes.*at least 32"):
        read_secret(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_the_file_of_a_secret_must_be_the_user_s_own(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    os.chown(path, 65534, -1)
    with pytest.raises(SecretFileError, match="belongs to user 65534"):
        read_secret(path)
