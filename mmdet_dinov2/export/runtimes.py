"""Exported files as functions, and the stages inside of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..inference.reader import INPUT, Reader, ReaderError
from .onnx_file import STAGE_PREFIX

Run = Callable[[np.ndarray], list[np.ndarray]]


class ExportedFile:
    """An ONNX or OpenVINO file that is being proven.

    Args:
        path: The file.
        runtime: 'onnxruntime' or 'openvino'; None takes the one for the file.

    Raises:
        ReaderError: If the file cannot be loaded.
    """

    def __init__(self, path: Path, runtime: str | None = None) -> None:
        self.path = path
        self._reader = Reader(path, runtime=runtime)
        self.runtime = self._reader.runtime

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Returns boxes, scores and labels; see :meth:`.reader.Reader.run`."""
        return self._reader.run(images)

    def stages(self, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
        """Reads stages out.

        Args:
            images: Input of the graph.
            names: Stages in the order of the computation.

        Returns:
            Values of the stages that the file has. If the graph cannot be run, those before the
            stage in which it fails, and an array of NaN for that one.
        """
        read = _onnx_stages if self.runtime == 'onnxruntime' else _openvino_stages
        try:
            return read(self.path, images, names)
        except ReaderError:
            pass
        values: dict[str, np.ndarray] = {}
        for name in names:
            try:
                values.update(read(self.path, images, [name]))
            except ReaderError:
                values[name] = np.array(np.nan)
                break
        return values


def _onnx_stages(path: Path, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    import onnx
    import onnxruntime

    model = onnx.load(path, load_external_data=False)
    inside = {output for node in model.graph.node for output in node.output}
    known = [name for name in names if STAGE_PREFIX + name in inside]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=STAGE_PREFIX + name) for name in known)
    # In the folder of the file, where its weights may be.
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix='.onnx') as file:
        onnx.save(model, file.name)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                file.name, options, providers=['CPUExecutionProvider']
            )
            values = session.run(None, {INPUT: images})
        except Exception as error:  # the runtime has many types of errors
            raise ReaderError(str(error)) from error
    return dict(zip(known, values, strict=True))


def _openvino_stages(path: Path, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    import openvino

    core = openvino.Core()
    model = core.read_model(str(path))
    ports: dict[str, Any] = {}
    for operation in model.get_ops():
        for port in operation.outputs():
            for tensor in port.get_names():
                if tensor.startswith(STAGE_PREFIX):
                    ports[tensor.removeprefix(STAGE_PREFIX)] = port
    known = [name for name in names if name in ports]
    try:
        probe = openvino.Model([ports[name] for name in known], model.get_parameters(), 'stages')
        compiled = core.compile_model(probe, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
        results = compiled({INPUT: images})
    except Exception as error:
        raise ReaderError(str(error)) from error
    return {name: results[index] for index, name in enumerate(known)}
