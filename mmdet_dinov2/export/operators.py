"""The operators of an ONNX file: standard ones only, and none that runtimes disagree about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from ..inference.reader import OUTPUTS
from .onnx_file import STAGE_PREFIX

# Runtimes differ in the bilinear sampling of this operator: 100 times the differences of scores,
# and users of TensorRT report wrong boxes.
_REFUSED = ('GridSample',)


def check_operators(path: Path, stages: Sequence[str]) -> dict[str, int]:
    """Checks the operators of a written file.

    Args:
        path: The file.
        stages: Names of the stages, in the order of the computation.

    Returns:
        How often each operator occurs.

    Raises:
        InputError: If an operator is not standard (of the domain ''), or is known to give different
            results in different runtimes. The message names the stage that it is in.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    counts: dict[str, int] = {}
    for node in model.graph.node:
        name = f'{node.domain}::{node.op_type}' if node.domain else node.op_type
        counts[name] = counts.get(name, 0) + 1
        if node.domain or node.op_type in _REFUSED:
            raise InputError(
                f'the exported file is not kept: it has the operator {name} ({node.name}), which '
                'not every runtime has or computes alike; the first stage that diverges: '
                f'{_stage_of(model.graph, node, stages)}'
            )
    domains = sorted({entry.domain for entry in model.opset_import} - {''})
    if model.functions or domains:
        raise InputError(
            'the exported file is not kept: it needs operators that are not standard '
            f'({", ".join(domains) or "functions"})'
        )
    return dict(sorted(counts.items()))


def _stage_of(graph: object, node: object, stages: Sequence[str]) -> str:
    """Returns the first stage that a node leads to."""
    used_by: dict[str, list] = {}
    for other in graph.node:
        for name in other.input:
            used_by.setdefault(name, []).append(other)
    reached = set(node.output)
    waiting = list(node.output)
    while waiting:
        for other in used_by.get(waiting.pop(), ()):
            new = set(other.output) - reached
            reached |= new
            waiting.extend(new)
    for stage in stages:
        if STAGE_PREFIX + stage in reached:
            return stage
    return OUTPUTS[0]
