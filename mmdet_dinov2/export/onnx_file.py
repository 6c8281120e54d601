"""Writing a detector as an ONNX file of standard operators."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import Dim

from ..errors import InputError
from ..inference.reader import INPUT, Metadata
from ..quiet_logging import without_messages
from .model import ExportModel

# TensorRT, OpenVINO and onnxruntime of the last years all read it.
OPSET = 18
# What the proof may ask for besides the outputs.
STAGE_PREFIX = 'stage/'
# From this size on, weights are in a file of their own; a file of protobuf holds less than 2 GiB.
_LARGE = 1_500_000_000
# Limits of the symbols of the traced program. The graph itself has no upper limits.
_LARGEST_SIDE, _LARGEST_BATCH = 2**14, 2**10


def require_packages(*names: str) -> None:
    """Checks that optional packages are there.

    Raises:
        InputError: If one is missing.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f'the export needs {" and ".join(missing)}: pip install "mmdet_dinov2[export]", or pip '
            f'install {" ".join(missing)}'
        )


def smallest_side(model: ExportModel, several_windows: bool = False) -> int:
    """Returns the pixels that a side of the input must have, for two cells of the coarsest level.

    The traced program may rely on more than one cell in each direction.

    Args:
        model: The detector.
        several_windows: Whether it relies on more than one window of the backbone as well, as a
            program of ``torch.export`` does.
    """
    neck, backbone = model.detector.neck, model.detector.backbone
    coarsest = int(max(model.detector.strides))
    side = coarsest + 1 if neck.pooling == 'ceil' else 2 * coarsest
    window = getattr(backbone, 'window_size', 0) * backbone.patch_size
    return max(side, window + 1) if several_windows else side


def example_size(model: ExportModel) -> tuple[int, int]:
    """Returns the size of images to trace with: a count that is 1 in the trace would stay 1.

    So there are several cells on the coarsest level, and several windows with one that is cut.
    """
    least, backbone = smallest_side(model), model.detector.backbone
    window = getattr(backbone, 'window_size', 0) * backbone.patch_size
    height, width = least + least // 2 + 3, 2 * least + 5
    return max(height, window + window // 2 + 3), max(width, 2 * window + window // 2 + 5)


def write_onnx(
    model: ExportModel, path: Path, metadata: Metadata, size: tuple[int, int] | None = None
) -> None:
    """Traces a detector and writes it as an ONNX file.

    Args:
        model: The detector.
        path: File to write. Weights of large models go to a file ``NAME.data`` beside it.
        metadata: What the file says about itself.
        size: Height and width of the only size that the graph takes; None for any.
    """
    program = _trace(model, size, metadata.outputs)
    graph = program.model.graph
    # Stages stay in the file as values inside the graph, by their names.
    del graph.outputs[len(metadata.outputs) :]
    program.model.metadata_props.clear()
    program.model.metadata_props.update(metadata.as_texts())
    _forget_sources(graph)
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
    with _quiet():
        program.save(str(path), external_data=num_bytes > _LARGE)


def _trace(model: ExportModel, size: tuple[int, int] | None, outputs: Sequence[str]) -> Any:
    """Returns the program of PyTorch's ONNX exporter, with the stages as further outputs."""
    height, width = size or example_size(model)
    device = next(model.parameters()).device
    example = torch.randn(2, 3, height, width, device=device)
    dynamic: dict[int, Any] = {0: Dim('batch', min=1, max=_LARGEST_BATCH)}
    if size is None:
        least = smallest_side(model)
        dynamic[2] = Dim('height', min=least, max=_LARGEST_SIDE)
        dynamic[3] = Dim('width', min=least, max=_LARGEST_SIDE)
    model.with_stages = True
    try:
        with torch.no_grad(), _quiet():
            model(example)  # tells the names of the stages
            return torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(dynamic,),
                input_names=[INPUT],
                output_names=[
                    *outputs,
                    *(STAGE_PREFIX + name for name in model.stage_names),
                ],  # fmt: skip
            )
    finally:
        model.with_stages = False


def _forget_sources(graph: Any) -> None:
    """Removes what the exporter noted about code and folders of this machine."""
    for node in graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
        value.metadata_props.clear()
    graph.metadata_props.clear()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides progress and warnings of the exporter; its errors are raised."""
    with (
        without_messages(logging.WARNING),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter('ignore')
        yield
