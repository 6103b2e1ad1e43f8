"""Records in a run's folder must be of its plan, and all measured by the same code and torch."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from paretopipe_worker.plan import identity
from paretopipe_worker.plan.plan import Plan
from paretopipe_worker.records.files import DamagedRecord, RecordError, file_name, read_records
from paretopipe_worker.records.lines import CONTROLLER_RANK, Header, Ready

_SHOWN = 12
_REMEDY = "go back to that, or measure anew under another name: -e run=NAME"


class ForeignRecords(RecordError):
    """Records that must not be mixed with those of a run: which file, of what, what to do."""


class Belonging:
    """Compares the records of a run with its plan and with one another, file by file."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._sha256 = identity.digest(plan)
        self._sessions = {session.id: session for session in plan.sessions}
        self._code: tuple[Path, str] | None = None
        self._torch: dict[str, tuple[Path, str]] = {}

    def check(self, file: Path, header: Header) -> None:
        """Refuse a file of another plan, or of other code or torch than the files before it.

        Raises
        ------
        ForeignRecords
            Naming the file and what differs.
        """
        self._check_plan(file, header)
        if header.rank == CONTROLLER_RANK:
            return
        self._check_host(file, header)
        self._code = self._code or (file, header.code_sha256)
        self.hold_code(header.code_sha256, str(file))
        self._torch.setdefault(header.host, (file, header.torch))
        self.hold_torch({header.host: header.torch}, str(file))

    def check_weights(self, file: Path, header: Header, ready: Ready) -> None:
        """Refuse records measured with other weights than the plan's.

        Raises
        ------
        ForeignRecords
            Naming the file and both weights.
        """
        weights = {table.held_sha256 for table in self._plan.tables_of(header.model)}
        if ready.weights_sha256 not in weights:
            raise ForeignRecords(
                f"{file}: measured with weights {_short(ready.weights_sha256)}; the plan's for "
                f"'{header.model}' are {', '.join(sorted(map(_short, weights)))}"
            )

    def check_first(self, file: Path) -> None:
        """Check only the first line of a file; without a whole one there is nothing to refuse."""
        with contextlib.suppress(StopIteration, DamagedRecord):
            header = next(read_records(file))
            if isinstance(header, Header):
                self.check(file, header)

    def hold_code(self, sha256: str, whose: str) -> None:
        """Refuse code of the worker that differs from the code of the records checked so far.

        Parameters
        ----------
        whose
            What has the code, as the error names it.

        Raises
        ------
        ForeignRecords
            Naming `whose` code it is, and a file that was measured by other code.
        """
        if self._code and self._code[1] != sha256:
            file, held = self._code
            raise ForeignRecords(
                f"{whose}: has code of the worker {_short(sha256)}, and {file} was measured by "
                f"{_short(held)}; all attempts of a run must be by the same: {_REMEDY}"
            )

    def hold_torch(self, versions: Mapping[str, str], whose: str) -> None:
        """Refuse a host's torch that differs from the one in its records checked so far.

        Parameters
        ----------
        versions
            Public version of torch by host.
        whose
            Where the versions are from, as the error names it.

        Raises
        ------
        ForeignRecords
            Naming the host, and a file that it measured with another version.
        """
        for host, version in versions.items():
            file, held = self._torch.get(host, (Path(), version))
            if held != version:
                raise ForeignRecords(
                    f"{whose}: {host} has torch {version}, and measured {file} with torch {held}; "
                    f"all attempts of a run must be with the same: {_REMEDY}"
                )

    def _check_plan(self, file: Path, header: Header) -> None:
        """Refuse records of another plan, or in a file whose name is another attempt's."""
        plan = self._plan
        if header.run != plan.run:
            raise ForeignRecords(
                f"{file}: records of run '{header.run}' among those of run '{plan.run}'"
            )
        if header.plan_sha256 != self._sha256:
            raise ForeignRecords(
                f"{file}: was measured by plan {_short(header.plan_sha256)}, and plan.json of run "
                f"'{plan.run}' is {_short(self._sha256)}: it measures something else. Move the "
                "records of the other plan away, or measure under another name: -e run=NAME"
            )
        if file.name != (name := file_name(header.session, header.attempt)):
            raise ForeignRecords(
                f"{file}: holds attempt {header.attempt} of session '{header.session}', whose file "
                f"is '{name}'"
            )
        if header.session not in self._sessions:
            raise ForeignRecords(f"{file}: session '{header.session}' is not in plan.json")

    def _check_host(self, file: Path, header: Header) -> None:
        """Refuse records of a stage that the plan has on another host, rank or device factor."""
        plan, session = self._plan, self._sessions[header.session]
        if header.rank >= len(session.placement) or session.placement[header.rank] != header.host:
            raise ForeignRecords(
                f"{file}: written by rank {header.rank} on '{header.host}'; session "
                f"'{session.id}' has {', '.join(session.placement)} in this order"
            )
        if file.parent.name != header.host:
            raise ForeignRecords(
                f"{file}: written on '{header.host}', in the directory of another host"
            )
        factor = plan.host(header.host).device_emulated
        if header.device_emulated != factor:
            raise ForeignRecords(
                f"{file}: measured with device_emulated {header.device_emulated:g}; the plan has "
                f"{factor:g} for '{header.host}'"
            )


def _short(digest: str) -> str:
    """The part of a digest that people compare."""
    return digest[:_SHOWN]
