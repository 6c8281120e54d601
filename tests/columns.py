"""Columns of annotations for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmdet_dinov2.data.annotation_columns import AnnotationColumns, ColumnsBuilder


def columns_of_entries(
    path: str,
    images: Sequence[Mapping[str, Any]],
    categories: Sequence[dict[str, Any]],
    annotations: Sequence[Mapping[str, Any]] | None,
    segmentations: bool = False,
) -> AnnotationColumns:
    """Returns the columns of checked entries; see :class:`AnnotationColumns`."""
    builder = ColumnsBuilder(path, categories, segmentations)
    builder.add_image_entries(images)
    if annotations is not None:
        builder.add_annotation_entries(annotations)
    return builder.build()
