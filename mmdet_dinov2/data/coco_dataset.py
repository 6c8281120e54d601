"""The dataset class of COCO files, whose labels follow the names of the classes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.dataset import force_full_init
from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from ..config.own_types import use_own_types
from ..errors import InputError
from ..sample_meta import BAD_IMAGES
from .annotation_columns import AnnotationColumns
from .annotation_file import read_annotations, read_entries
from .coco_file import category_ids, complete_annotation, names_outside
from .image_header import MAX_PIXELS, is_extreme
from .loading import BadImageError
from .masks_used import masks_loaded, uses_masks
from .other_samples import OTHER_SAMPLES, OtherSamples
from .usable_masks import loadable_mask

# Side in pixels of the blank image that replaces an unreadable one without a usable size.
_BLANK_SIDE = 32


@DATASETS.register_module()
class ClassNameCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset``, strict about its files and tolerant of their order.

    - Label i is the category *named* ``metainfo.classes[i]``, whatever the order of the file. mmdet
      numbers labels in that order.
    - Missing ``area`` and ``iscrowd`` are filled in: the area of the box and 0.
    - An image that cannot be read raises in training, where
      :class:`~mmdet_dinov2.data.seeded.SeededDataset` replaces it. In tests a blank image replaces
      it, whose detections do not count.
    - Annotations are in columns, which the processes of a machine share. Segmentations are among
      them if a transform loads masks.
    - A box whose segmentation is missing, or is no mask, gets a mask without any pixel: the box is
      learned, its mask is not. mmdet ends the training, or leaves out the box.

    Args:
        *args: As for :class:`mmdet.datasets.CocoDataset`.
        pipeline: Transforms of a sample. Types in :data:`mmdet_dinov2.config.own_types.OWN_TYPES`,
            such as ``LoadImageFromFile``, are replaced, and the log says so.
        **kwargs: As for :class:`mmdet.datasets.CocoDataset`.

    Raises:
        InputError: If the file is not in COCO's format, lacks a class, or names images outside
            their folder.
    """

    # Set by `full_init`, which the constructor calls.
    _columns: AnnotationColumns | None = None
    _with_masks = False
    _images: np.ndarray  # positions of the images that are kept in the columns

    def __init__(self, *args: Any, pipeline: Sequence[dict | Callable] = (), **kwargs: Any) -> None:
        # A runner has done this for its whole config. Other tools build datasets too.
        own = dict(pipeline=copy.deepcopy(pipeline))
        for line in use_own_types(own):
            print_log(f'{type(self).__name__} uses {line}', logger='current')
        super().__init__(*args, **own, **kwargs)

    def full_init(self) -> None:
        """Reads the annotation file and filters the images."""
        if self._fully_initialized:
            return
        if not self._fits_columns():
            super().full_init()
            # Only filtering needs it, and every process of a dataloader would copy it.
            self.cat_img_map = None
            return
        with self._local_file() as path:
            self._columns = self._read(path)
        self._images = np.flatnonzero(self._kept()).astype(np.int32)
        if self._indices is not None:
            self._images = self._subset(self._indices)
        self._fully_initialized = True

    def _fits_columns(self) -> bool:
        """Returns whether the samples are what the columns say, without objects for each image."""
        own = ('load_data_list', 'filter_data', 'parse_data_info')
        return (
            self.serialize_data
            and self.proposal_file is None
            and all(
                getattr(type(self), name) is getattr(ClassNameCocoDataset, name) for name in own
            )
        )

    def _local_file(self) -> AbstractContextManager[str]:
        return get_local_path(self.ann_file, backend_args=self.backend_args)

    def _read(self, path: str) -> AnnotationColumns:
        """Reads the annotation file and finds the classes."""
        transforms = self.pipeline.transforms
        self._with_masks = bool(masks_loaded(transforms))
        columns = read_annotations(path, segmentations=uses_masks(transforms))
        self.cat_ids = category_ids(columns, self.metainfo['classes'])
        self.cat2label = {category: label for label, category in enumerate(self.cat_ids)}
        folder = self.data_prefix['img']
        outside = names_outside(folder, columns.file_names)
        if outside:
            raise InputError(
                f"'{self.ann_file}' names the image {outside[0]!r}, which is not inside the image "
                f"folder '{folder}'; correct the file or data_prefix.img"
            )
        return columns

    def _kept(self) -> np.ndarray:
        """Returns which images ``filter_cfg`` keeps, as mmdet's ``filter_data`` does."""
        columns, rules = self._columns, self.filter_cfg
        kept = np.ones(columns.num_images, dtype=bool)
        if self.test_mode or rules is None:
            return kept
        kept &= np.minimum(columns.widths, columns.heights) >= rules.get('min_size', 0)
        if rules.get('filter_empty_gt', False):
            is_class = np.array([c['id'] in self.cat2label for c in columns.categories], dtype=bool)
            counts = (columns.image_index >= 0) & (columns.category_index >= 0)
            counts[counts] = is_class[columns.category_index[counts]]
            full = np.zeros_like(kept)
            full[columns.image_index[counts]] = True
            kept &= full
        return kept

    def load_data_list(self) -> list[dict[str, Any]]:
        """Returns the samples of all images as Python objects; see mmengine's ``BaseDataset``.

        They are used if a subclass replaces this method or what it calls, with ``proposal_file``,
        and without ``serialize_data``.
        """
        with self._local_file() as path:
            self._read(path)
            content = read_entries(path)
        annotations = defaultdict(list)
        # Images that have boxes of a category; filter_cfg.filter_empty_gt needs it.
        self.cat_img_map = defaultdict(list)
        for annotation in content.get('annotations', ()):
            annotations[annotation['image_id']].append(complete_annotation(annotation))
            self.cat_img_map[annotation['category_id']].append(annotation['image_id'])
        return [self._info_of(image, annotations[image['id']]) for image in content['images']]

    def _info_of(self, image: dict[str, Any], annotations: list[dict[str, Any]]) -> Any:
        """Returns the sample of an image and its annotations."""
        if self._with_masks:
            size = image['width'], image['height']
            for annotation in annotations:
                annotation['segmentation'] = loadable_mask(annotation.get('segmentation'), *size)
        return self.parse_data_info(
            dict(raw_img_info={**image, 'img_id': image['id']}, raw_ann_info=annotations)
        )

    @force_full_init
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Returns what the file says of an image; see mmengine's ``BaseDataset``."""
        if self._columns is None:
            return super().get_data_info(idx)
        index = int(self._images[idx])
        annotations = self._columns.annotations(self._columns.annotations_of(index))
        info = self._info_of(self._columns.image(index), annotations)
        info['sample_idx'] = idx if idx >= 0 else len(self) + idx
        return info

    @force_full_init
    def __len__(self) -> int:
        """Returns the number of images that are kept."""
        return super().__len__() if self._columns is None else len(self._images)

    @force_full_init
    def get_subset_(self, indices: Sequence[int] | int) -> None:
        """Keeps some of the images; see mmengine's ``BaseDataset``."""
        if self._columns is None:
            super().get_subset_(indices)
        else:
            self._images = self._subset(indices)

    @force_full_init
    def get_subset(self, indices: Sequence[int] | int) -> ClassNameCocoDataset:
        """Returns a dataset of some of the images; see mmengine's ``BaseDataset``."""
        if self._columns is None:
            return super().get_subset(indices)
        subset = self._copy_without_annotation()
        subset._images = self._subset(indices)
        return subset

    def _subset(self, indices: Sequence[int] | int) -> np.ndarray:
        if isinstance(indices, int):
            return self._images[:indices] if indices >= 0 else self._images[indices:]
        return self._images[np.asarray(indices, dtype=int)]

    @force_full_init
    def image_sizes(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns widths and heights in pixels, (N,) each; ``None`` if they are not in columns."""
        if self._columns is None:
            return None
        return self._columns.widths[self._images], self._columns.heights[self._images]

    def prepare_data(self, idx: int) -> Any:
        """Returns a sample; see mmengine's ``BaseDataset``.

        Raises:
            BadImageError: If the image cannot be read, except in tests.
        """
        shrinks_away = False
        try:
            info = self.get_data_info(idx)
            if not self.test_mode:
                info[OTHER_SAMPLES] = OtherSamples(self)
            return self.pipeline(info)
        except BadImageError as error:
            bad = error
        except cv2.error as error:  # a side that would have less than a pixel
            shrinks_away = True
            reason = f'it cannot be resized ({error.err or error})'
            bad = BadImageError(self.get_data_info(idx)['img_path'], reason)
        if not self.test_mode:
            raise bad
        info = self.get_data_info(idx)
        height, width = int(info['height']), int(info['width'])
        if shrinks_away or not 0 < height * width <= MAX_PIXELS or is_extreme(width, height):
            height = width = _BLANK_SIDE
        blank = np.zeros((height, width, 3), dtype=np.uint8)
        sample = self.pipeline({**info, 'img': blank})
        views = sample.get('data_samples')
        views = views if isinstance(views, list) else [views]  # of test-time augmentation
        if not all(hasattr(view, 'set_metainfo') for view in views):
            raise bad  # nothing would tell the blank image from a real one
        for view in views:
            view.set_metainfo({BAD_IMAGES: (bad.described,)})
        return sample
