"""Reading of COCO annotation files into columns."""

from __future__ import annotations

from .annotation_columns import AnnotationColumns, columns_of_entries
from .coco_file import read_coco_file


def read_annotations(
    path: str, sizes: bool = True, segmentations: bool = False
) -> AnnotationColumns:
    """Reads a local COCO annotation file and checks every entry.

    A ``bbox`` that is missing or empty is the box around the segmentation, and a ``file_name`` that
    is missing is the path of the ``coco_url``, as in LVIS.

    Args:
        path: The file.
        sizes: Whether the entries of images need ``width`` and ``height``; without, these may be
            missing, ``None`` or 0.
        segmentations: Whether to keep the segmentations, for masks.

    Raises:
        FileNotFoundError: If there is no such file.
        InputError: If it is not JSON, or not in COCO's format.
    """
    coco = read_coco_file(path, sizes)
    columns = columns_of_entries(
        path, coco.images, coco.categories, coco.annotations, segmentations
    )
    columns.derived.update(coco.derived)
    return columns
