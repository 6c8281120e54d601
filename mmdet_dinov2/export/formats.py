"""Formats of exported files besides ONNX, all of which are made from the ONNX file or its model."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import Dim

from ..errors import InputError
from ..inference.reader import INPUT, Metadata
from .model import ExportModel
from .onnx_file import example_size

# By name, the suffix of the file.
FORMATS = dict(onnx='.onnx', openvino='.xml', torch='.pt2', tensorrt='.onnx')
_OPENVINO_KEY = 'mmdet_dinov2'


def write_openvino(source: Path, target: Path, metadata: Metadata) -> None:
    """Converts an ONNX file for OpenVINO; weights go to ``NAME.bin`` beside it.

    Args:
        source: The ONNX file.
        target: File to write, ``.xml``.
        metadata: What the file says about itself. 'fp16' keeps its weights in half precision.
    """
    import openvino

    model = openvino.convert_model(str(source))
    for output, name in zip(model.outputs, metadata.outputs, strict=True):
        output.get_tensor().add_names({name})
    for key, value in metadata.as_texts().items():
        model.set_rt_info(value, [_OPENVINO_KEY, key])
    openvino.save_model(model, str(target), compress_to_fp16=metadata.precision == 'fp16')


def write_program(
    model: ExportModel, path: Path, metadata: Metadata, size: tuple[int, int] | None
) -> None:
    """Writes a program of ``torch.export``.

    Args:
        model: The detector.
        path: File to write, ``.pt2``. Its extra file ``metadata.json`` has the metadata.
        metadata: What the file says about itself.
        size: Height and width of the only size that the program takes; None for any.

    Raises:
        InputError: If PyTorch cannot export the detector.
    """
    import json

    height, width = size or example_size(model)
    dynamic: dict[int, Any] = {0: Dim.DYNAMIC}
    if size is None:
        dynamic.update({2: Dim.DYNAMIC, 3: Dim.DYNAMIC})
    example = torch.randn(2, 3, height, width, device=next(model.parameters()).device)
    try:
        with torch.no_grad(), redirect_stderr(io.StringIO()):
            program = torch.export.export(
                model,
                (example,),
                dynamic_shapes=(dynamic,),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            torch.export.save(
                program, path, extra_files={'metadata.json': json.dumps(metadata.as_texts())}
            )
    except Exception as error:  # the tracer has many types of errors
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f'torch.export cannot export this detector ({reason}); --size may help, or '
            '--format onnx'
        ) from error


class ExportedProgramFile:
    """A program of ``torch.export`` that is being proven.

    Args:
        path: The file, which this process has written.
    """

    runtime = 'torch.export'

    def __init__(self, path: Path) -> None:
        self._module = torch.export.load(path).module()

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Returns boxes, scores and labels of normalised images (B, 3, H, W)."""
        with torch.no_grad():
            outputs = self._module(torch.from_numpy(images))
        return [values.cpu().numpy() for values in outputs]

    def stages(self, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns no stages: the program has none."""
        return {}


def trtexec_command(path: Path, metadata: Metadata, example: tuple[int, int], fp16: bool) -> str:
    """Returns the command line with which TensorRT builds an engine from an ONNX file.

    Args:
        path: The ONNX file.
        metadata: What it says about itself.
        example: Height and width that the engine is optimised for.
        fp16: Whether TensorRT may compute in half precision.
    """
    words = ['trtexec', f'--onnx={path}', f'--saveEngine={path.with_suffix(".engine")}']
    height, width = metadata.size or example
    least, most = (
        (height, width) if metadata.size else (side, side)
        for side in (metadata.smallest_side, 2 * max(example))
    )
    for name, batch, sides in (
        ('min', 1, least),
        ('opt', 1, (height, width)),
        ('max', 4, most),
    ):
        shape = 'x'.join(map(str, (batch, 3, *sides)))
        words.append(f'--{name}Shapes={INPUT}:{shape}')
    return ' '.join([*words, *(['--fp16'] if fp16 else [])])
