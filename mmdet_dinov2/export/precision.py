"""Exported files in lower precision, by the quantisers of onnxruntime."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..inference.reader import INPUT
from ..quiet_logging import without_messages
from .onnx_file import STAGE_PREFIX, require_packages

PRECISIONS = ('fp32', 'fp16', 'int8')
# Linear layers behind the pyramid that are computed in lower precision too, by the names of their
# weights. Everything else there places boxes and sampling points.
_LINEAR_LAYERS = ('.ffn.', '.value_proj.', '.output_proj.')
_MATRIX_OPERATORS = ('MatMul', 'Gemm', 'Conv', 'ConvTranspose')


def convert(source: Path, target: Path, precision: str, samples: Sequence[np.ndarray] = ()) -> None:
    """Writes an ONNX file of lower precision. Inputs and outputs stay in fp32.

    Backbone, pyramid and the large linear layers behind it are converted. Positions, the choice of
    proposals, sampling points and boxes are computed in fp32, as under autocast in training.

    Args:
        source: ONNX file in fp32.
        target: File to write.
        precision: 'fp16' or 'int8' (weights and inputs of matrix products).
        samples: Inputs (1, 3, H, W) to calibrate 'int8' with.
    """
    require_packages('onnx', 'onnxruntime')
    if precision == 'fp16':
        _to_fp16(source, target)
    else:
        _to_int8(source, target, samples)


def simulate_half(source: Path, target: Path) -> None:
    """Writes an ONNX file that rounds in fp32 what a device computes in half precision.

    onnxruntime on a CPU computes most of a file of half precision in fp32, without rounding and
    without overflow, so that a proof with it would say little. Here every result and every weight
    of the nodes that :func:`convert` converts is rounded to half precision and back.

    Args:
        source: ONNX file in fp32.
        target: File to write.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    wanted = set(converted_nodes(model))
    shapes = onnx.shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in shapes.value_info}
    used = {name for node in graph.node if node.name in wanted for name in node.input}
    for tensor in graph.initializer:
        if tensor.name in used and tensor.data_type == TensorProto.FLOAT:
            with np.errstate(over='ignore'):
                rounded = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        position = len(graph.node)
        graph.node.append(node)
        if node.name not in wanted:
            continue
        for index, name in enumerate(node.output):
            if kinds.get(name) != TensorProto.FLOAT:
                continue
            graph.node[position].output[index] = f'{name}/exact'
            for kind, taken, made in (
                (TensorProto.FLOAT16, f'{name}/exact', f'{name}/half'),
                (TensorProto.FLOAT, f'{name}/half', name),
            ):
                cast = onnx.helper.make_node('Cast', [taken], [made], f'{made}/cast', to=kind)
                graph.node.append(cast)
    _save(model, target, _metadata(model))


def converted_nodes(model: Any) -> list[str]:
    """Returns the names of the nodes of an ONNX model that may be computed in lower precision."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    # What leads to the pyramid, and what comes from the pixels of the image, not from its size.
    leads_there: set[str] = set()
    waiting = [STAGE_PREFIX + 'pyramid']
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.name not in leads_there:
            leads_there.add(node.name)
            waiting.extend(node.input)
    from_pixels = {INPUT}
    names = []
    for node in graph.node:  # in the order of the computation
        if node.op_type == 'Shape' or not from_pixels.intersection(node.input):
            continue
        from_pixels.update(node.output)
        linear = node.op_type in _MATRIX_OPERATORS and any(
            name in weights and any(layer in name for layer in _LINEAR_LAYERS)
            for name in node.input
        )
        if node.name in leads_there or linear:
            names.append(node.name)
    return names


def _to_fp16(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(source)
    texts = _metadata(model)
    kept = set(converted_nodes(model))
    with without_messages(logging.WARNING):
        model = convert_float_to_float16(
            model,
            keep_io_types=True,
            node_block_list=[node.name for node in model.graph.node if node.name not in kept],
        )
    _save(model, target, texts)


def _to_int8(source: Path, target: Path, samples: Sequence[np.ndarray]) -> None:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self._waiting = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self._waiting, None)
            return None if sample is None else {INPUT: sample}

    model = onnx.load(source)
    texts = _metadata(model)
    wanted = set(converted_nodes(model))
    nodes = [
        node.name
        for node in model.graph.node
        if node.name in wanted and node.op_type in _MATRIX_OPERATORS
    ]
    with (
        without_messages(logging.WARNING),
        tempfile.TemporaryDirectory(dir=target.parent) as folder,
    ):
        quantized = Path(folder) / 'model.onnx'
        quantize_static(
            str(source),
            str(quantized),
            Samples(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_MATRIX_OPERATORS),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options=dict(MatMulConstBOnly=True),
        )
        _save(onnx.load(quantized), target, texts)


def _metadata(model: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _save(model: Any, target: Path, texts: dict[str, str]) -> None:
    import onnx

    del model.metadata_props[:]
    onnx.helper.set_model_props(model, texts)
    large = model.ByteSize() > 1_500_000_000
    onnx.save(
        model,
        target,
        save_as_external_data=large,
        location=f'{target.name}.data' if large else None,
    )
