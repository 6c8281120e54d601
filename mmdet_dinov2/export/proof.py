"""The proof of an exported file: it is run beside the detector that it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from mmdet.structures import DetDataSample
from torch import Tensor

from ..errors import InputError
from ..evaluation.coco_evaluation import evaluate_boxes
from ..evaluation.evaluated_boxes import EvaluatedBoxes, found_boxes, true_boxes
from ..inference import Detector
from ..inference.reader import ReaderError
from ..models.mask_prediction import masks_from_logits
from ..wording import text_table
from .comparing import (
    NUM_BEST,
    Detections,
    Difference,
    by_level,
    compare,
    first_divergence,
)
from .images import ProofImage, Truth, network_input, other_sizes
from .model import ExportModel
from .stages import recorded_stages
from .ties import given_order

# A detection of PyTorch stands for an annotation from this score on, where there are none, or where
# the detector is so bad that AP says nothing.
_STANDS_FOR_TRUTH = 0.3
_LEAST_AP = 0.05


@dataclass(frozen=True)
class Tolerance:
    """How far an exported file may be from PyTorch.

    Attributes:
        ap: Difference of AP.
        pixels: Difference of a box; None for no limit.
        score: Difference of a score; None for no limit. Labels must then be equal too.
        stage: Relative difference of a stage from which on it is said to diverge.
        tie: Scores that differ by less are almost the same.
        overlap: Smallest IoU of two masks; None for no limit.
        mean_overlap: Mean IoU of masks.
    """

    ap: float
    pixels: float | None = None
    score: float | None = None
    stage: float = 1e-4
    tie: float = 2e-5
    overlap: float | None = None
    mean_overlap: float = 0.0


TOLERANCES = {
    # A logit that is almost zero moves a pixel, which is 0.01 of a mask of 10 x 10.
    'fp32': Tolerance(ap=5e-5, pixels=0.01, score=1e-5, overlap=0.98, mean_overlap=0.999),
    'fp16': Tolerance(ap=0.005, stage=0.05, tie=0.05, mean_overlap=0.97),
    'int8': Tolerance(ap=0.01, stage=0.5, tie=0.1, mean_overlap=0.9),
}
# Logits of proposals that differ by less, relative to the largest one, are almost the same.
_TIE_OF_PROPOSALS = 1e-5


class Exported(Protocol):
    """What is proven; see :class:`.runtimes.ExportedFile`."""

    def run(self, images: np.ndarray) -> list[np.ndarray]: ...

    def stages(self, images: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]: ...


@dataclass
class Proof:
    """What was compared, and how far it was apart.

    Attributes:
        tolerance: What was allowed.
        difference: The largest differences.
        sizes: Sizes of the batches, as B x H x W.
        num_images: Number of images that are large enough for the file.
        num_refused: Number of images that the file does not take at the size that the test pipeline
            gives them.
        ap: AP of PyTorch and of the exported file, 0..1.
        ap_of: What AP was measured against.
        has_masks: Whether masks were compared.
        ties: Batches in which two proposals with almost the same score changed places. PyTorch was
            then given the order of the exported file.
    """

    tolerance: Tolerance
    difference: Difference = field(default_factory=Difference)
    sizes: list[str] = field(default_factory=list)
    num_images: int = 0
    num_refused: int = 0
    ap: tuple[float, float] | None = None
    ap_of: str = ''
    ties: int = 0
    has_masks: bool = False

    def table(self) -> str:
        """Returns the comparison as text."""
        pixels, score = self.tolerance.pixels, self.tolerance.score
        rows = [
            (
                'boxes, pixels',
                f'{self.difference.pixels:.2g}',
                '' if pixels is None else f'{pixels:g}',
            ),
            ('scores', f'{self.difference.score:.2g}', '' if score is None else f'{score:g}'),
            ('labels that differ', str(self.difference.labels), '' if score is None else '0'),
        ]
        if self.has_masks:
            least, mean = self.tolerance.overlap, self.tolerance.mean_overlap
            rows += [
                (
                    'IoU of masks, smallest',
                    f'{self.difference.least_overlap:.4f}',
                    '' if least is None else f'{least:g}',
                ),
                ('IoU of masks, mean', f'{self.difference.mean_overlap:.4f}', f'{mean:g}'),
            ]
        if self.ap is not None:
            distance = abs(self.ap[0] - self.ap[1])
            before, after = (f'{value:.4f}' for value in self.ap)
            rows.append((f'AP {before} -> {after}', f'{distance:.2g}', f'{self.tolerance.ap:g}'))
        table = text_table(('compared with PyTorch', 'largest difference', 'allowed'), rows)
        return (
            f'{table}\n{self.difference.compared} detections in {len(self.sizes)} batches of '
            f'{len(set(self.sizes))} sizes' + (f'; AP of {self.ap_of}' if self.ap else '')
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns the proof, ready for JSON."""
        return asdict(self)


def prove(
    detector: Detector,
    model: ExportModel,
    exported: Exported,
    images: Sequence[ProofImage],
    tolerance: Tolerance,
    size: tuple[int, int] | None = None,
    smallest: int = 1,
) -> Proof:
    """Compares an exported file with the detector that it comes from.

    Args:
        detector: The detector, with its test pipeline.
        model: What was exported of it.
        exported: The exported file.
        images: Images to compare on.
        tolerance: How far the file may be from PyTorch.
        size: Height and width of the only size that the file takes; None for any.
        smallest: Smallest side that it takes.

    Returns:
        The proof.

    Raises:
        InputError: If the file is too far from PyTorch; the message names the first stage that is.
    """
    proof = Proof(tolerance, has_masks=model.mask_stride is not None)
    inputs = [(image.truth, *network_input(detector, image)) for image in images]
    of_images = [tuple(entry[1].shape[2:]) for entry in inputs]
    proof.num_refused = sum(
        min(sides) < smallest or size not in (None, sides) for sides in of_images
    )
    inputs = [entry for entry in inputs if min(entry[1].shape[2:]) >= smallest]
    if images and not inputs:
        raise InputError(
            f'the exported file could not be proven: all {len(images)} images come out of the test '
            f'pipeline with a side below {smallest} pixels, which it does not take; name others '
            'with --images'
        )
    truths, batches, scales = map(list, zip(*inputs)) if inputs else ([], [], [])
    proof.num_images = len(batches)
    if size is None:
        batches += other_sizes(batches, smallest)
    else:
        # Annotations belong to images of other sizes.
        truths, scales = [None] * len(batches), [(1.0, 1.0)] * len(batches)
        batches = [_resized(image, size) for image in batches]
        batches += [torch.cat((image, image.flip(3), image.flip(2))) for image in batches[:2]]
    found: list[tuple[Detections, Detections]] = []
    for batch in batches:
        found += _compare_batch(proof, detector, model, exported, batch)
        proof.sizes.append('{} x {} x {}'.format(len(batch), *batch.shape[2:]))
    if not proof.difference.compared:
        raise InputError(
            'the exported file could not be proven: PyTorch detects nothing in the images; name '
            'others with --images'
        )
    if proof.has_masks and proof.difference.mean_overlap < tolerance.mean_overlap:
        raise _refusal(
            f'the mean IoU of masks is {proof.difference.mean_overlap:.4f}, but must be at least '
            f'{tolerance.mean_overlap:g}',
            _diverging_stage(detector, model, exported, batches[0], tolerance),
        )
    _measure_ap(proof, detector, truths, scales, found)
    if proof.ap is not None and not abs(proof.ap[0] - proof.ap[1]) <= tolerance.ap:
        worst = max(
            batches[: proof.num_images], key=lambda batch: _apart(detector, model, exported, batch)
        )
        raise _refusal(
            f'its AP is {proof.ap[1]:.4f}, that of PyTorch {proof.ap[0]:.4f} ({proof.ap_of}; '
            f'allowed difference {tolerance.ap:g})',
            _diverging_stage(detector, model, exported, worst, tolerance),
        )
    return proof


def _compare_batch(
    proof: Proof, detector: Detector, model: ExportModel, exported: Exported, batch: Tensor
) -> list[tuple[Detections, Detections]]:
    """Adds the differences of a batch; returns what was detected in each image."""
    tolerance = proof.tolerance
    expected = detections_of(detector, batch)
    try:
        found = _run(model, exported, batch)
    except ReaderError as error:
        stage = _diverging_stage(detector, model, exported, batch, tolerance)
        raise _refusal(f'it cannot be run ({error})', stage) from error
    difference = _difference(expected, found, tolerance)
    if _beyond(difference, tolerance):
        tied = _with_ties(detector, exported, batch)
        if tied is not None:
            proof.ties += 1
            expected = tied
            difference = _difference(expected, found, tolerance)
    if _beyond(difference, tolerance):
        raise _refusal(
            f'boxes differ by {difference.pixels:.2g} pixels, scores by {difference.score:.2g}, '
            f'and {difference.labels} labels of {difference.compared} differ, '
            + (f'masks have an IoU of {difference.least_overlap:.2g}, ' * proof.has_masks)
            + 'in images of {} x {} pixels (height x width)'.format(*batch.shape[2:]),
            _diverging_stage(detector, model, exported, batch, tolerance),
        )
    proof.difference = proof.difference.with_worst(difference)
    return list(zip(expected, found, strict=True))


def _beyond(difference: Difference, tolerance: Tolerance) -> bool:
    if np.isnan(difference.pixels):
        return True
    if tolerance.pixels is None or tolerance.score is None:
        return False
    return (
        difference.pixels > tolerance.pixels
        or difference.score > tolerance.score
        or difference.labels > 0
        or difference.least_overlap < (tolerance.overlap or 0)
    )


def _difference(
    expected: Sequence[Detections], found: Sequence[Detections], tolerance: Tolerance
) -> Difference:
    worst = Difference()
    for pair in zip(expected, found, strict=True):
        worst = worst.with_worst(compare(*pair, tolerance.tie))
    return worst


def _refusal(what: str, stage: str) -> InputError:
    return InputError(
        f'the exported file is not kept: {what}; the first stage that diverges: {stage}'
    )


# ------------------------------------------------------------------------- detections


@torch.no_grad()
def detections_of(detector: Detector, batch: Tensor) -> list[Detections]:
    """Runs the detector as it predicts, on normalised images of one size (B, 3, H, W)."""
    shape = tuple(batch.shape[2:])
    samples = [DetDataSample(metainfo=dict(img_shape=shape)) for _ in batch]
    samples = detector.model.predict(batch, samples, rescale=False)
    return [
        Detections(
            *(sample.pred_instances[key].cpu().numpy() for key in ('bboxes', 'scores', 'labels')),
            masks=sample.pred_instances.get('masks'),
        )
        for sample in samples
    ]


def _with_ties(detector: Detector, exported: Exported, batch: Tensor) -> list[Detections] | None:
    """Runs the detector with the proposals of a file, if these are the best but for near-ties."""
    try:
        order = exported.stages(batch.cpu().numpy(), ['order']).get('order')
    except ReaderError:
        return None
    if order is None or order.shape != (len(batch), detector.model.test_num_queries):
        return None
    with given_order(detector.model, torch.from_numpy(order.astype(np.int64))) as apart:
        detections = detections_of(detector, batch)
    return detections if max(apart) <= _TIE_OF_PROPOSALS else None


def _run(model: ExportModel, exported: Exported, batch: Tensor) -> list[Detections]:
    return _from_outputs(model, exported.run(batch.cpu().numpy()), batch)


def _from_outputs(
    model: ExportModel, outputs: Sequence[np.ndarray], batch: Tensor
) -> list[Detections]:
    """Returns what the outputs of a graph say about a batch."""
    found = []
    for boxes, scores, labels, *logits in zip(*outputs):
        masks = None
        if logits:
            cell = torch.full((2,), model.mask_stride)
            masks = masks_from_logits(
                *map(torch.from_numpy, logits), cell, torch.from_numpy(boxes), batch.shape[2:]
            )
        found.append(Detections(boxes, scores, labels, masks))
    return found


def _apart(detector: Detector, model: ExportModel, exported: Exported, batch: Tensor) -> float:
    """Returns how far the scores of an image are apart."""
    (expected,), (found,) = detections_of(detector, batch), _run(model, exported, batch)
    return float(np.abs(expected.scores - found.scores).sum())


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[2:]) == size:
        return image
    return torch.nn.functional.interpolate(image, size, mode='bilinear')


def _measure_ap(
    proof: Proof,
    detector: Detector,
    annotations: Sequence[Truth | None],
    scales: Sequence[tuple[float, float]],
    found: Sequence[tuple[Detections, Detections]],
) -> None:
    """Measures AP of both against the annotations, else against what PyTorch detects."""
    pairs = found[: len(scales)]
    truths = [truth for truth in annotations if truth is not None]
    if len(truths) == len(scales):
        proof.ap_of = f'{len(scales)} annotated images'
        proof.ap = _ap(detector, truths, scales, pairs)
        if proof.ap is not None and proof.ap[0] >= _LEAST_AP:
            return
    truths = []
    for (expected, _), scale in zip(pairs, scales):
        last = min(NUM_BEST, len(expected.scores)) - 1
        kept = expected.scores >= min(_STANDS_FOR_TRUTH, expected.scores[last])
        labels = expected.labels[kept]
        boxes = _xywh(expected.boxes[kept], scale)
        truths.append(Truth(boxes, labels, np.zeros(len(labels), dtype=bool)))
    proof.ap_of = (
        f'{len(scales)} images against what PyTorch detects with a score of {_STANDS_FOR_TRUTH}, '
        f'and its {NUM_BEST} best'
    )
    proof.ap = _ap(detector, truths, scales, pairs)


def _ap(
    detector: Detector,
    truths: Sequence[Truth],
    scales: Sequence[tuple[float, float]],
    pairs: Sequence[tuple[Detections, Detections]],
) -> tuple[float, float] | None:
    """Returns AP of PyTorch and of the file, 0..1; None if there is nothing to detect."""
    truth = true_boxes(
        np.concatenate([[index] * len(truth.labels) for index, truth in enumerate(truths)]),
        np.concatenate([truth.boxes for truth in truths]),
        np.concatenate([truth.labels for truth in truths]),
        np.concatenate([truth.crowd for truth in truths]),
    )
    if not len(truth.labels):
        return None
    values = []
    for detections in zip(*pairs, strict=True):
        merged = found_boxes(
            np.concatenate([[i] * len(of.scores) for i, of in enumerate(detections)]),
            np.concatenate([_xywh(of.boxes, scales[i]) for i, of in enumerate(detections)]),
            np.concatenate([of.labels for of in detections]),
            np.concatenate([of.scores for of in detections]),
        )
        boxes = EvaluatedBoxes(len(truths), truth, merged)
        values.append(evaluate_boxes(boxes, len(detector.classes)).average_precision())
    return values[0], values[1]


def _xywh(boxes: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    boxes = boxes / np.array([*scale, *scale])
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), 1)


# ----------------------------------------------------------------------------- stages


def _diverging_stage(
    detector: Detector,
    model: ExportModel,
    exported: Exported,
    batch: Tensor,
    tolerance: Tolerance,
) -> str:
    """Returns the first stage that diverges, in words."""
    traced = _stages(model, batch)
    with torch.no_grad(), recorded_stages(detector.model) as recorded:
        detections_of(detector, batch)
    areas = [rows * cols for rows, cols in (grid[0] for grid in _grids(model, batch))]

    def divided(stages: Mapping[str, Any]) -> dict[str, np.ndarray]:
        arrays = {name: np.asarray(values) for name, values in stages.items()}
        return by_level(arrays, areas, len(batch))

    wanted = divided({name: values.cpu() for name, values in recorded.items()})
    of_model = divided({name: values.cpu() for name, values in traced.items() if name in recorded})
    before = first_divergence(wanted, of_model, TOLERANCES['fp32'].stage)
    if before is not None:
        return f'{before[0]}, in PyTorch already, before the export'
    found = exported.stages(batch.cpu().numpy(), list(recorded))
    broken = [name for name, values in found.items() if not values.ndim]
    found = divided({name: values for name, values in found.items() if values.ndim})
    found.update({name: np.array(np.nan) for name in broken})
    stage = first_divergence(of_model, found, tolerance.stage)
    if stage is None:
        return 'boxes'
    name, distance = stage
    if np.isnan(distance):
        return f'{name} (not finite)'
    return f'{name} (by {distance:.2g} of its largest value)'


def _grids(model: ExportModel, batch: Tensor) -> list[list[tuple[int, int]]]:
    detector = model.detector
    return detector.neck.grids([tuple(batch.shape[2:])], detector.backbone.patch_size)


@torch.no_grad()
def _stages(model: ExportModel, batch: Tensor) -> dict[str, Tensor]:
    model.with_stages = True
    try:
        outputs = model(batch)
    finally:
        model.with_stages = False
    first = len(outputs) - len(model.stage_names)
    return dict(zip(model.stage_names, outputs[first:], strict=True))
