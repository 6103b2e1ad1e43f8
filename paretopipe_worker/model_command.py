"""The commands that take a model.

``cuts`` lists where it can be cut, ``wire`` what crosses there in each wire format, and ``export``
writes stages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from paretopipe_worker.cuts import DTYPE_BYTES, InputSpec
from paretopipe_worker.wire.formats import FORMATS

if TYPE_CHECKING:
    from paretopipe_worker.model.sources import Source

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_parsers(commands: Commands) -> None:
    """Add the commands."""
    parser = commands.add_parser("cuts", help="list the places where a model can be cut")
    _add_model(parser)
    _add_places(parser)
    parser.set_defaults(run=_cuts)
    _add_wire(commands)
    _add_export(commands)


def _add_wire(commands: Commands) -> None:
    parser = commands.add_parser("wire", help="pack what crosses each cut in each wire format")
    _add_model(parser)
    _add_places(parser)
    _add_weights(parser)
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        choices=tuple(FORMATS),
        metavar="NAME",
        help=f"one of {', '.join(FORMATS)}; once for each; by default all that this host has",
    )
    parser.set_defaults(run=_wire)


def _add_places(parser: argparse.ArgumentParser) -> None:
    """Options that say which cuts, and how they are printed."""
    parser.add_argument(
        "--granularity",
        choices=("block", "op"),
        default="block",
        help="cut after each block, or after each operation that few tensors leave",
    )
    parser.add_argument(
        "--max-tensors",
        type=_positive,
        default=1,
        metavar="N",
        help="at granularity op, cuts at which at most N tensors cross; 1 by default",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, metavar="FILE", help="checkpoint to load")


def _add_export(commands: Commands) -> None:
    parser = commands.add_parser("export", help="write a model's stages as .pt2 and ONNX files")
    _add_model(parser)
    parser.add_argument(
        "--cut",
        action="append",
        required=True,
        metavar="NAME",
        help="where to cut, as `cuts` lists it; once for each cut, in the order of the data",
    )
    _add_weights(parser)
    parser.add_argument(
        "-o", dest="folder", type=Path, required=True, metavar="DIR", help="where the files go"
    )
    parser.set_defaults(run=_export)


def _add_model(parser: argparse.ArgumentParser) -> None:
    """Options that say which model, and for which inputs."""
    parser.add_argument(
        "model", help="a torchvision classifier, timm/NAME, package.module:factory, or a .pt2 file"
    )
    parser.add_argument(
        "--path", type=Path, help="file or folder in which the factory's module lies"
    )
    parser.add_argument(
        "--arguments",
        type=_arguments,
        default={},
        metavar="JSON",
        help="keyword arguments of the factory, such as '{\"layers\": 4}'",
    )
    parser.add_argument(
        "--batch",
        type=_positive,
        default=1,
        metavar="N",
        help="how many of each input; 1 by default",
    )
    parser.add_argument(
        "--input",
        type=_input,
        action="append",
        default=[],
        metavar="SHAPE[:DTYPE[:LOW:HIGH]]",
        help="one input without the batch, such as 3,224,224 or 32:int64:0:1000 (whole numbers "
        "from LOW up to below HIGH); once for each input; by default the model's own",
    )


def _positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _arguments(text: str) -> dict[str, object]:
    """A JSON object."""
    with contextlib.suppress(ValueError):
        if isinstance(found := json.loads(text), dict):
            return found
    raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")


def _input(text: str) -> InputSpec:
    """Whole numbers of at least 1, joined by commas; a dtype; and the bounds of whole numbers."""
    shape, *more = text.split(":")
    dtype, *bounds = more or ["float32"]
    try:
        lengths = tuple(_positive(part.strip()) for part in shape.split(","))
        low, high = map(int, bounds or (0, 2))
        if dtype in DTYPE_BYTES and low < high:
            return InputSpec(lengths, dtype, low, high)
    except (argparse.ArgumentTypeError, ValueError):
        pass
    raise argparse.ArgumentTypeError(
        f"must be whole numbers of at least 1 such as 3,224,224, then perhaps a dtype and bounds "
        f"such as 32:int64:0:1000, got {text!r}; dtypes are {', '.join(DTYPE_BYTES)}"
    )


def _asked(options: argparse.Namespace) -> tuple[Source, list[InputSpec]]:
    """Which model, and what goes into it."""
    from paretopipe_worker.listing import specs
    from paretopipe_worker.model.sources import Source

    source = replace(Source.of(options.model), arguments=options.arguments)
    if options.path:
        source = replace(source, path=options.path)
    return source, specs(source, options.batch, options.input)


def _cuts(options: argparse.Namespace) -> int:
    """List a model's cuts: their names, crossing tensors, and what each side costs."""
    from paretopipe_worker import listing

    document = listing.cuts(*_asked(options), options.granularity, options.max_tensors)
    return _print(options, document, listing.text)


def _wire(options: argparse.Namespace) -> int:
    """Pack what crosses each cut: bytes, times and errors of each format."""
    from paretopipe_worker import wire_listing

    document = wire_listing.packed(
        *_asked(options),
        options.granularity,
        options.max_tensors,
        formats=tuple(dict.fromkeys(options.format)),
        checkpoint=options.weights,
        note=lambda text: print(text, file=sys.stderr),
    )
    return _print(options, document, wire_listing.text)


def _print(
    options: argparse.Namespace,
    document: dict[str, Any],
    text: Callable[[dict[str, Any], int], str],
) -> int:
    """Print a document as it is asked for."""
    if options.json:
        print(json.dumps(document, indent=1))
    else:
        print(text(document, shutil.get_terminal_size().columns))
    return 0


def _export(options: argparse.Namespace) -> int:
    """Write the stages; exit status 1 says that one of them has no ONNX file."""
    from paretopipe_worker import export, export_readme

    source, taken = _asked(options)
    document = export.export(
        source,
        options.cut,
        taken,
        options.folder,
        checkpoint=options.weights,
        note=lambda text: print(text, file=sys.stderr),
    )
    print("\n".join([f"Wrote {options.folder}.", *export_readme.found(document)]))
    for line in export_readme.refusals(document):
        print(line, file=sys.stderr)
    return 1 if export_readme.refusals(document) else 0
