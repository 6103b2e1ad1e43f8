"""What two ends of a connection must agree on before they work together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """What one rank computes with; every rank of a session must have the same.

    Parameters
    ----------
    schema
        Version of the records.
    plan
        Digest of what the plan measures.
    cuts
        Digest of the session's points: their ids, splits and the tensors of each hop.
    torch
        Public version of torch.
    weights
        Checksum of the model's weights.
    """

    schema: str = ""
    plan: str = ""
    cuts: str = ""
    torch: str = ""
    weights: str = ""
