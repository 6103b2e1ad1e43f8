"""Rows of a benchmark from a process with the environment of a stage process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from paretopipe_worker.host.supervise import STAGE_ENVIRONMENT

_MODEL_S = 900
"""Most seconds of one model."""


def apart(module: str, models: Sequence[str], quick: bool) -> list[dict[str, Any]]:
    """Rows of models, which ``python -m MODULE --model MODEL QUICK`` prints as JSON, one by one."""
    rows: list[dict[str, Any]] = []
    for model in models:
        done = subprocess.run(
            [sys.executable, "-m", module, "--model", model, json.dumps(quick)],
            env={**os.environ, **STAGE_ENVIRONMENT},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=_MODEL_S,
        )
        rows += json.loads(done.stdout)
    return rows
