"""What the command ``export`` says of the files it wrote: to people, and in their ``README.md``."""

from __future__ import annotations

from typing import Any

_EXAMPLE_PT2 = """\
import {packages}
outputs = torch.export.load("{file}").module()({inputs})
"""
_EXAMPLE_ONNX = """\
import numpy, onnxruntime
outputs = onnxruntime.InferenceSession("{file}").run(None, {{{inputs}}})
"""


def refusals(document: dict[str, Any]) -> list[str]:
    """A line for each stage that has no ONNX file and should have one."""
    return [
        f"Stage {stage['stage']} has no ONNX file: {stage['onnx_refused']}."
        for stage in document["stages"]
        if stage["onnx_refused"]
    ]


def found(document: dict[str, Any]) -> list[str]:
    """What was compared and how close it is, in lines for people."""
    compared, stages = document["compared"], document["stages"]
    if compared["onnx_to_model"] is not None:
        onnx = f"The ONNX files return {_close(compared['onnx_to_model'], 'the model')}."
    elif any(".onnx" in name for stage in stages for name in stage["files"]):
        onnx = "The ONNX files were not run: onnxruntime is not installed here."
    else:
        onnx = "There is no ONNX file."
    return [
        f"The .pt2 files return {_close(compared['pt2_to_stages'], 'the stages of a sweep')}.",
        f"The .pt2 files return {_close(compared['pt2_to_model'], 'the model')}.",
        onnx,
        *(
            f"Stage {stage['stage']} has no operations and no files: it returns what it is given."
            for stage in stages
            if stage["empty"]
        ),
    ]


def _close(error: float, what: str) -> str:
    """How close a result is to another."""
    if error == 0:
        return f"the same bits as {what}"
    return f"what {what} returns, within {error:.1g} of its largest value"


def text(document: dict[str, Any]) -> str:
    """What ``README.md`` says beside the files: what they are, and an example of each."""
    stages = document["stages"]
    cuts = ", ".join(f"`{name}`" for name in document["cuts"])
    lines = [
        f"# {document['model']} in {len(stages)} stages",
        "",
        f"It is cut at {cuts}, for batches of {document['batch']}. What stage 0 returns goes into "
        "stage 1, and so on, in order. `stages.json` has shapes, dtypes and checksums.",
        "",
        f"The files were read back and run one after the other on "
        f"{document['compared']['inputs']} inputs, with torch {document['torch']}:",
        "",
        *(f"- {line}" for line in [*found(document), *refusals(document)]),
        "",
        "A `.pt2` needs torch alone, unless its example imports more; an `.onnx` needs a runtime "
        "for ONNX alone, such as onnxruntime.",
    ]
    for stage in stages:
        for name in stage["files"]:
            if name.endswith((".pt2", ".onnx")):
                lines += ["", f"## {name}", "", "```python", *_example(name, stage), "```"]
    return "\n".join(lines) + "\n"


def _example(name: str, stage: dict[str, Any]) -> list[str]:
    """Two lines that run a file on zeros."""
    if name.endswith(".pt2"):
        example, given = _EXAMPLE_PT2, [_zeros(tensor) for tensor in stage["inputs"]]
    else:
        example, given = (
            _EXAMPLE_ONNX,
            [
                f'"{each["name"]}": numpy.zeros({tuple(each["shape"])}, "{each["dtype"]}")'
                for each in stage["inputs"]
            ],
        )
    packages = ", ".join(["torch", *stage["packages"]])
    return example.format(file=name, packages=packages, inputs=", ".join(given)).splitlines()


def _zeros(tensor: dict[str, Any]) -> str:
    """A tensor of zeros, as one writes it."""
    dtype = "" if tensor["dtype"] == "float32" else f", dtype=torch.{tensor['dtype']}"
    return f"torch.zeros({tuple(tensor['shape'])}{dtype})"
