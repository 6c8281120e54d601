"""A picture of sampled images with their boxes, to check them by eye."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from ..data.annotation_columns import AnnotationColumns
from ..data.box_counts import trained_on
from ..data.dataset_source import DatasetSource
from ..data.image_checks import image_paths
from ..data.image_file import read_image
from ..drawing.box_pictures import draw_boxes
from ..drawing.figures import save_figure
from ..drawing.fonts import fonts_for
from ..drawing.mask_drawing import Outlines, outlines_of
from ..errors import InputError
from ..evaluation.true_masks import masks_of_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Long side of an image in the picture, in pixels.
_SIDE = 480


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its annotations.

    Attributes:
        title: Heading.
        image: (H, W, 3) uint8 RGB; None if it cannot be read.
        boxes: (N, 4) as ``x1, y1, x2, y2`` in pixels of ``image``.
        labels: Label of every box; -1 for a category that is not a class.
        names: Name of the category of every box.
        used: Whether each box is trained on.
        masks: Outlines of the mask of every box in pixels of ``image``, none where it has no mask;
            ``None`` if masks are not used.
    """

    title: str
    image: np.ndarray | None
    boxes: np.ndarray
    labels: Sequence[int]
    names: Sequence[str]
    used: Sequence[bool]
    masks: Sequence[Outlines] | None = None


def sample_images(
    source: DatasetSource, coco: AnnotationColumns, count: int
) -> list[AnnotatedImage]:
    """Loads images of a dataset as training does.

    Up to half of them are the first images with boxes that training drops; the others are spread
    evenly over the dataset.

    Args:
        source: The dataset.
        coco: Its annotation file.
        count: Largest number of images.
    """
    entries = list(image_paths(source, coco).items())
    used = trained_on(coco)
    dropped = np.zeros(coco.num_images, dtype=bool)
    dropped[coco.image_index[~used & ~coco.crowd & (coco.image_index >= 0)]] = True
    suspect = [entry for entry in entries if dropped[entry[1]]][: count // 2]
    others = [entry for entry in entries if entry not in suspect] if suspect else entries
    wanted = min(count - len(suspect), len(others))
    positions = np.linspace(0, len(others) - 1, wanted).round().astype(int) if wanted else ()
    chosen = suspect + [others[position] for position in positions]
    return [_annotated(source, coco, path, index, used) for path, index in chosen]


def _annotated(
    source: DatasetSource, coco: AnnotationColumns, path: str, index: int, used: np.ndarray
) -> AnnotatedImage:
    title = f'{source.split}: {coco.file_names[index]}'
    scale, pixels = 1.0, None
    try:
        pixels = read_image(path, coco.size(index) if source.by_name else None)
        scale = _SIDE / max(pixels.shape[:2])
        size = [max(round(side * scale), 1) for side in pixels.shape[1::-1]]
        # Small images are enlarged to make room for the texts.
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        pixels = np.ascontiguousarray(cv2.resize(pixels, size, interpolation=how)[:, :, ::-1])
    except (InputError, OSError) as error:
        title = f'{title}\n{str(error.__cause__ or error)[:60]}'  # without the path
    places = coco.annotations_of(index)
    names = [*coco.category_names, '?']  # for categories that the file does not list
    categories = [names[max(category, -1)] for category in coco.category_index[places].tolist()]
    classes = list(source.classes)
    boxes = coco.boxes[places] * scale
    boxes[:, 2:] += boxes[:, :2]
    labels = [classes.index(name) if name in classes else -1 for name in categories]
    return AnnotatedImage(
        title=title,
        image=pixels,
        boxes=boxes,
        labels=labels,
        names=categories,
        used=[label >= 0 and bool(used[at]) for label, at in zip(labels, places, strict=True)],
        masks=None
        if coco.segmentations is None or pixels is None
        else _outlines(coco, places, pixels),
    )


def _outlines(coco: AnnotationColumns, places: np.ndarray, pixels: np.ndarray) -> list[Outlines]:
    masks, known = masks_of_file(coco, places)
    return [
        outlines_of([mask], pixels.shape[1])[0] if is_known else ()
        for mask, is_known in zip(masks, known.tolist(), strict=True)
    ]


def draw_images(images: Sequence[AnnotatedImage], path: str | Path) -> None:
    """Draws images with their boxes into a picture file; boxes that training drops are dashed.

    Args:
        images: The images.
        path: Picture file; its folder is created.
    """
    with fonts_for(entry.title for entry in images):
        save_figure(images_figure(images), path)


def images_figure(images: Sequence[AnnotatedImage]) -> Figure:
    """Returns a figure with a grid of images and their boxes."""
    from matplotlib.figure import Figure

    columns = max(min(4, math.ceil(math.sqrt(len(images)))), 1)
    rows = max(math.ceil(len(images) / columns), 1)
    figure = Figure(figsize=(4 * columns, 3.4 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, entry in zip(grid.flat, images, strict=False):
        axes.set_title(entry.title, fontsize=8)
        if entry.image is not None:
            dashed = [not used for used in entry.used]
            picture = draw_boxes(
                entry.image, entry.boxes, entry.labels, entry.names, dashed, entry.masks
            )
            axes.imshow(picture)
    return figure
