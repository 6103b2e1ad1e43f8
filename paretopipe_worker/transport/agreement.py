"""What both ends of a connection must have alike before they work together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """What one rank records and computes with; all ranks of a session must have the same.

    Parameters
    ----------
    schema
        Version of the record format.
    plan
        Digest of the plan, as far as it says what is measured.
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
