"""From a detector to a proven file."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata as packages
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import sha256_of, write_text
from ..inference import Detector, reader
from ..inference.reader import Metadata, ReaderError
from ..version import __version__
from .formats import FORMATS, ExportedProgramFile, write_openvino, write_program
from .images import ProofImage, network_input
from .metadata import metadata_of
from .model import ExportModel
from .onnx_file import require_packages, smallest_side, write_onnx
from .operators import check_operators
from .precision import PRECISIONS, convert, simulate_half
from .proof import TOLERANCES, Proof, prove
from .runtimes import ExportedFile

# What each format needs besides PyTorch.
_PACKAGES = dict(
    onnx=('onnx', 'onnxscript', 'onnxruntime'),
    openvino=('onnx', 'onnxscript', 'openvino'),
    torch=(),
    tensorrt=('onnx', 'onnxscript', 'onnxruntime'),
)
# A file of half precision is also proven as a device with half precision computes it.
_READER = 'reader.py'
_SIMULATED = 'simulated.onnx'
_NAMED = ('torch', 'onnx', 'onnxscript', 'onnxruntime', 'openvino', 'numpy')


@dataclass(frozen=True)
class ExportSettings:
    """What to write.

    Attributes:
        format: One of ``FORMATS``.
        size: Height and width of the only size that the file takes; None for any.
        precision: One of ``PRECISIONS``.
        score_threshold: Lowest score that is worth showing.
        with_reader: Whether ``reader.py`` is written beside the file.
        source: Where the detector comes from, for people.
    """

    format: str = 'onnx'
    size: tuple[int, int] | None = None
    precision: str = 'fp32'
    score_threshold: float = 0.3
    with_reader: bool = False
    source: str = ''


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        files: All files, that one first.
        proof: How far it is from PyTorch.
        metadata: What it says about itself.
    """

    path: Path
    files: tuple[Path, ...]
    proof: Proof
    metadata: Metadata


def export(
    detector: Detector,
    out: Path,
    images: Sequence[ProofImage],
    settings: ExportSettings,
    calibration: Sequence[ProofImage] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> Exported:
    """Writes a detector to a file and proves it; a file that differs from PyTorch is not kept.

    All files are written to a temporary folder beside ``out`` first. What has their names before is
    replaced only by files that are proven.

    Args:
        detector: The detector.
        out: File to write.
        images: Images to prove it with.
        settings: What to write.
        calibration: Images to calibrate 'int8' with.
        tell: Takes what is done, line by line.

    Raises:
        InputError: If the detector cannot be exported, or the file differs from PyTorch.
    """
    check_settings(out, settings)
    if settings.precision == 'int8' and not calibration:
        raise InputError(
            'int8 is calibrated with images of the training split, but the config names none; name '
            'a folder of images with --calibration-images, or a config in place of the checkpoint, '
            'and the checkpoint with --checkpoint'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    model = ExportModel(detector.model)
    least = smallest_side(model, several_windows=settings.format == 'torch')
    metadata = metadata_of(
        detector,
        settings.size,
        least,
        settings.precision,
        settings.score_threshold,
        settings.source,
        model.mask_stride,
    )
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.export_') as folder:
        draft = Path(folder) / 'draft' / out.name
        draft.parent.mkdir()
        tell(f'tracing and writing {out.name}')
        operators = _write(detector, model, draft, metadata, settings, calibration)
        tell('comparing it with PyTorch')
        proof = prove(
            detector,
            model,
            _open(draft),
            images,
            TOLERANCES[settings.precision],
            settings.size,
            1 if settings.size else least,
        )
        simulated = Path(folder) / _SIMULATED
        if simulated.exists():
            tell('comparing it with PyTorch, rounded as on a device with half precision')
            simulation = prove(
                detector,
                model,
                _open(simulated),
                images,
                TOLERANCES[settings.precision],
                settings.size,
                1 if settings.size else least,
            )
            proof = max(proof, simulation, key=_distance)
        files = _publish(draft, out)
    if proof.num_refused:
        tell(
            f'note: the file does not take {proof.num_refused} of {len(images)} images at the size '
            'that the test pipeline gives them, and was not compared on them as they are'
        )
    proof_file = proof_path(out)
    write_text(proof_file, _report(out, proof, metadata, settings, operators))
    written = [*files, proof_file]
    if settings.with_reader:
        written.append(out.with_name(_READER))
        shutil.copyfile(reader.__file__, written[-1])
    return Exported(out, tuple(written), proof, metadata)


def proof_path(file: str | Path) -> Path:
    """Returns the file that holds the proof of an exported file."""
    return Path(f'{file}.proof.json')


def _replaced(out: Path, settings: ExportSettings) -> list[Path]:
    """Returns the files that are written beside an exported one."""
    paths = [proof_path(out)]
    if settings.format == 'openvino':
        paths.append(out.with_suffix('.bin'))
    if settings.with_reader:
        paths.append(out.with_name(_READER))
    return paths


def _is_ours(path: Path, out: Path) -> bool:
    """Returns whether an earlier export wrote a file."""
    if path.suffix == '.bin':
        return out.is_file()  # the graph that the weights belong to
    try:
        if path.name == _READER:
            first, *_ = path.read_text(encoding='utf-8').splitlines() or ['']
            return first == f'"""{reader.__doc__.splitlines()[0]}'
        return json.loads(path.read_text(encoding='utf-8'))['file'] == out.name
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _distance(proof: Proof) -> float:
    return abs(proof.ap[0] - proof.ap[1]) if proof.ap else 0.0


def check_settings(out: Path, settings: ExportSettings) -> None:
    """Checks what can be checked before a detector is loaded.

    Raises:
        InputError: If a setting cannot be used, or a package is missing.
    """
    suffix = FORMATS[settings.format]
    if out.suffix != suffix:
        raise InputError(f'--out {out} must end in {suffix} for the format {settings.format}')
    if settings.precision not in PRECISIONS:
        raise InputError(f'the precision must be one of {PRECISIONS}, got {settings.precision!r}')
    if settings.format == 'torch' and settings.precision != 'fp32':
        raise InputError('the format torch has the precision fp32 only')
    if settings.with_reader and settings.format == 'torch':
        raise InputError('reader.py reads ONNX and OpenVINO files, not those of the format torch')
    if settings.size is not None and min(settings.size) < 1:
        raise InputError(f'--size must be positive, got {settings.size[0]} x {settings.size[1]}')
    if not 0 <= settings.score_threshold <= 1:
        raise InputError(
            f'the score threshold must be between 0 and 1, but is {settings.score_threshold}'
        )
    if out.is_dir():
        raise InputError(f'--out {out} is a folder; name a file in it')
    for path in _replaced(out, settings):
        if path.exists() and not _is_ours(path, out):
            raise InputError(
                f'{path} would be replaced, but `mmdet_dinov2 export` did not write it; choose '
                'another --out'
            )
    names = _PACKAGES[settings.format]
    if settings.precision != 'fp32':
        names = (*names, 'onnxruntime')
    require_packages(*dict.fromkeys(names))


def _write(
    detector: Detector,
    model: ExportModel,
    draft: Path,
    metadata: Metadata,
    settings: ExportSettings,
    calibration: Sequence[ProofImage],
) -> dict[str, int]:
    """Writes the file; returns the numbers of the operators of its graph."""
    if settings.format == 'torch':
        write_program(model, draft, metadata, settings.size)
        return {}
    graph = draft if settings.format != 'openvino' else draft.parent.parent / 'model.onnx'
    plain = graph if settings.precision == 'fp32' else draft.parent.parent / 'fp32.onnx'
    write_onnx(model, plain, metadata, settings.size)
    # OpenVINO has its own way to half precision.
    if settings.precision == 'int8' or (settings.precision == 'fp16' and graph == draft):
        samples = [network_input(detector, image)[0].cpu().numpy() for image in calibration]
        convert(plain, graph, settings.precision, samples)
        if settings.precision == 'fp16':
            simulate_half(plain, draft.parent.parent / _SIMULATED)
    elif plain != graph:
        graph = plain
    operators = check_operators(graph, [*model.stage_names])
    if settings.format == 'openvino':
        write_openvino(graph, draft, metadata)
    return operators


def _open(draft: Path) -> ExportedFile | ExportedProgramFile:
    if draft.suffix == '.pt2':
        return ExportedProgramFile(draft)
    try:
        return ExportedFile(draft)
    except ReaderError as error:
        raise InputError(f'the exported file is not kept: {error}') from error


def _publish(draft: Path, out: Path) -> list[Path]:
    """Moves proven files to their place, that of the graph last."""
    files = sorted(draft.parent.iterdir(), key=lambda path: path == draft)
    moved = []
    for file in files:
        target = out.with_name(file.name)
        os.replace(file, target)
        moved.insert(0, target)
    return moved


def _report(
    out: Path,
    proof: Proof,
    metadata: Metadata,
    settings: ExportSettings,
    operators: dict[str, int],
) -> str:
    versions: dict[str, Any] = {'mmdet_dinov2': __version__}
    for name in _NAMED:
        try:
            versions[name] = packages.version(name)
        except packages.PackageNotFoundError:
            continue
    content = dict(
        file=out.name,
        sha256=sha256_of(out),
        bytes=out.stat().st_size,
        exported_from=settings.source,
        format=settings.format,
        precision=settings.precision,
        size=settings.size,
        proof=proof.as_dict(),
        operators=operators,
        versions=versions,
        metadata=metadata.as_texts(),
    )
    return json.dumps(content, indent=1, ensure_ascii=False) + '\n'
