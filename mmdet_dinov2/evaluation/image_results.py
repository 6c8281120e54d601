"""What an evaluation keeps of its images: packed in each process, and put together from all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..instance_masks import RunLengths, run_lengths
from .evaluated_boxes import FoundBoxes, TrueBoxes, found_boxes, true_boxes
from .true_masks import masks_of_instances

# Type and, of tables, number of columns.
_COLUMNS = {
    'found': dict(boxes=(np.float32, 4), labels=(np.int32, 0), scores=(np.float32, 0)),
    'true': dict(boxes=(np.float32, 4), labels=(np.int32, 0), crowd=(bool, 0)),
}


def image_result(
    image_id: int | str,
    found: Mapping[str, Any],
    instances: Sequence[Mapping[str, Any]] = (),
    mask_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Returns what is kept of an image.

    Args:
        image_id: Id of the image.
        found: Detections of mmdet: ``bboxes`` (N, 4) as corners in pixels, ``labels`` and
            ``scores``, as tensors.
        instances: Annotations as mmdet's datasets give them, with ``bbox`` as corners,
            ``bbox_label`` and ``ignore_flag``, if they are not read from a file.
        mask_size: Height and width of the image, if masks are kept too: ``masks`` of the detections
            and ``mask`` of the annotations.

    Raises:
        InputError: If the detections have no masks, or masks of a different size.
    """
    values = {
        'found': dict(
            boxes=found['bboxes'].float().cpu().numpy(),
            labels=found['labels'].cpu().numpy(),
            scores=found['scores'].float().cpu().numpy(),
        ),
        'true': dict(
            boxes=[instance['bbox'] for instance in instances],
            labels=[instance['bbox_label'] for instance in instances],
            crowd=[instance.get('ignore_flag', 0) for instance in instances],
        ),
    }
    result: dict[str, Any] = dict(
        id=image_id.item() if isinstance(image_id, np.generic) else image_id
    )
    for side, columns in _COLUMNS.items():
        for name, (kind, width) in columns.items():
            shape = (-1, width) if width else -1
            result[f'{side}_{name}'] = np.asarray(values[side][name], dtype=kind).reshape(shape)
    if mask_size is not None:
        height, width = map(int, mask_size)
        true, known = masks_of_instances(instances, height, width)
        result.update(
            size=(height, width),
            found_masks=_counts(_detected_masks(image_id, found, [height, width])),
            true_masks=_counts(true),
            true_known=known,
        )
    return result


def _detected_masks(
    image_id: int | str, found: Mapping[str, Any], size: list[int]
) -> list[RunLengths]:
    if 'masks' not in found:
        raise InputError(
            "the metric 'segm' needs masks, but the model finds boxes only; set metric='bbox' of "
            'the evaluator, or train a model with a mask head'
        )
    masks = run_lengths(found['masks'])
    other = next((mask['size'] for mask in masks if list(mask['size']) != size), None)
    if other is not None:
        raise InputError(
            f'the masks of image {image_id!r} must have its size of {size[0]} x {size[1]} pixels '
            f'(height x width), but one has {other[0]} x {other[1]}; return masks of `ori_shape`'
        )
    return masks


def _counts(masks: Sequence[RunLengths]) -> list[bytes]:
    """Returns the run lengths of masks whose size is known."""
    counts = (mask['counts'] for mask in masks)
    return [part.encode() if isinstance(part, str) else part for part in counts]


def pack(results: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the results of a process as one array of each kind.

    Args:
        results: Results of :func:`image_result`; there may be none.
    """
    ids = json.dumps([result['id'] for result in results]).encode()
    arrays = dict(ids=np.frombuffer(ids, dtype=np.uint8))
    for side, columns in _COLUMNS.items():
        counts = [len(result[f'{side}_labels']) for result in results]
        arrays[f'{side}_counts'] = np.array(counts, dtype=np.int64)
        for name, (kind, width) in columns.items():
            empty = np.empty((0, width) if width else 0, dtype=kind)
            key = f'{side}_{name}'
            arrays[key] = np.concatenate([empty, *(result[key] for result in results)])
    arrays['sizes'] = np.array(
        [result['size'] for result in results if 'size' in result], dtype=np.int32
    ).reshape(-1, 2)
    known = [flag for result in results for flag in result.get('true_known', ())]
    arrays['true_known'] = np.array(known, dtype=bool)
    for side in _COLUMNS:
        masks = [counts for result in results for counts in result.get(f'{side}_masks', ())]
        arrays[f'{side}_mask_lengths'] = np.array(list(map(len, masks)), dtype=np.int64)
        arrays[f'{side}_mask_counts'] = np.frombuffer(b''.join(masks), dtype=np.uint8)
    return arrays


@dataclass(frozen=True)
class AllImages:
    """The results of all images.

    Attributes:
        ids: Their ids, sorted.
        found: The detections.
        true: The annotations that came with the samples.
        sizes: Height and width of each image in pixels, (I, 2); ``None`` without masks.
    """

    ids: list[int | str]
    found: FoundBoxes
    true: TrueBoxes
    sizes: np.ndarray | None = None


def unpack(parts: Sequence[Mapping[str, np.ndarray]]) -> AllImages:
    """Puts the results of all processes together.

    Images are sorted by their ids, and those that a sampler gave to more than one process, to give
    all of them as many, count once: the outcome depends neither on the number of processes nor on
    the order of the images.

    Args:
        parts: What :func:`pack` returned in each process.
    """
    ids = [image_id for part in parts for image_id in json.loads(part['ids'].tobytes())]
    known = sorted(set(ids), key=lambda image_id: (isinstance(image_id, str), image_id))
    index_of = {image_id: index for index, image_id in enumerate(known)}
    images = np.array([index_of[image_id] for image_id in ids], dtype=np.int64)
    _, first = np.unique(images, return_index=True)
    counts_once = np.zeros(len(ids), dtype=bool)
    counts_once[first] = True
    sizes = np.concatenate([part['sizes'] for part in parts])
    with_masks = bool(len(sizes))
    sizes = sizes[first] if with_masks else None

    def side_of(side: str) -> dict[str, np.ndarray]:
        counts = np.concatenate([part[f'{side}_counts'] for part in parts])
        owners = np.repeat(np.arange(len(ids)), counts)
        rows = np.flatnonzero(counts_once[owners])
        rows = rows[np.argsort(images[owners[rows]], kind='stable')]
        columns = {
            name: np.concatenate([part[f'{side}_{name}'] for part in parts])[rows]
            for name in _COLUMNS[side]
        }
        corners = columns['boxes'].astype(float)
        corners[:, 2:] -= corners[:, :2]
        columns |= dict(boxes=corners, images=images[owners[rows]])
        if with_masks:
            columns['masks'] = _masks(parts, side, rows, sizes[columns['images']])
            if side == 'true':
                columns['known'] = np.concatenate([part['true_known'] for part in parts])[rows]
        return columns

    return AllImages(known, found_boxes(**side_of('found')), true_boxes(**side_of('true')), sizes)


def _masks(
    parts: Sequence[Mapping[str, np.ndarray]], side: str, rows: np.ndarray, sizes: np.ndarray
) -> list[RunLengths]:
    """Returns the masks of chosen rows, whose images have the sizes (R, 2)."""
    ends = np.cumsum(np.concatenate([part[f'{side}_mask_lengths'] for part in parts]))
    counts = np.concatenate([part[f'{side}_mask_counts'] for part in parts]).tobytes()
    starts = np.concatenate([[0], ends[:-1]])
    return [
        dict(size=size, counts=counts[start:end])
        for size, start, end in zip(
            sizes.tolist(), starts[rows].tolist(), ends[rows].tolist(), strict=True
        )
    ]
