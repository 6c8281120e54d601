"""The dataset class of COCO files, whose labels follow the names of the classes."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.fileio import get_local_path
from mmengine.logging import print_log

from ..config.own_types import use_own_types
from ..errors import InputError
from ..sample_meta import BAD_IMAGES
from .coco_file import category_ids, complete_annotation, leaves_folder, read_coco_file
from .image_header import MAX_PIXELS, is_extreme
from .loading import BadImageError

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
    - Only the serialised annotations, which the processes of a dataloader share, stay in memory.

    Args:
        *args: As for :class:`mmdet.datasets.CocoDataset`.
        pipeline: Transforms of a sample. Types in :data:`mmdet_dinov2.config.own_types.OWN_TYPES`,
            such as ``LoadImageFromFile``, are replaced, and the log says so.
        **kwargs: As for :class:`mmdet.datasets.CocoDataset`.

    Raises:
        InputError: If the file is not in COCO's format, lacks a class, or names images outside
            their folder.
    """

    def __init__(self, *args: Any, pipeline: Sequence[dict | Callable] = (), **kwargs: Any) -> None:
        # A runner has done this for its whole config. Other tools build datasets too.
        own = dict(pipeline=copy.deepcopy(pipeline))
        for line in use_own_types(own):
            print_log(f'{type(self).__name__} uses {line}', logger='current')
        super().__init__(*args, **own, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Reads the annotation file; see mmengine's ``BaseDataset``."""
        with get_local_path(self.ann_file, backend_args=self.backend_args) as path:
            coco = read_coco_file(path)
        self.cat_ids = category_ids(coco, self.metainfo['classes'])
        self.cat2label = {category: label for label, category in enumerate(self.cat_ids)}
        folder = self.data_prefix['img']
        for image in coco.images:
            if leaves_folder(folder, image['file_name']):
                raise InputError(
                    f"'{self.ann_file}' names the image {image['file_name']!r}, which is not "
                    f"inside the image folder '{folder}'; correct the file or data_prefix.img"
                )
        annotations = defaultdict(list)
        # Images that have boxes of a category; filter_cfg.filter_empty_gt needs it.
        self.cat_img_map = defaultdict(list)
        for annotation in coco.annotations or ():
            annotations[annotation['image_id']].append(complete_annotation(annotation))
            self.cat_img_map[annotation['category_id']].append(annotation['image_id'])
        return [
            self.parse_data_info(
                dict(
                    raw_img_info={**image, 'img_id': image['id']},
                    raw_ann_info=annotations[image['id']],
                )
            )
            for image in coco.images
        ]

    def full_init(self) -> None:
        """Reads, filters and serialises the annotations."""
        super().full_init()
        # Only filtering needs it, and every process of a dataloader would copy it.
        self.cat_img_map = None

    def prepare_data(self, idx: int) -> Any:
        """Returns a sample; see mmengine's ``BaseDataset``.

        Raises:
            BadImageError: If the image cannot be read, except in tests.
        """
        shrinks_away = False
        try:
            return super().prepare_data(idx)
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
        if not hasattr(sample.get('data_samples'), 'set_metainfo'):
            raise bad  # nothing would tell the blank image from a real one
        sample['data_samples'].set_metainfo({BAD_IMAGES: (bad.described,)})
        return sample
