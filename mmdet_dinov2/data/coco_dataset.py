"""The registered dataset class of COCO files, whose labels follow the names of the classes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.dataset import Compose
from mmengine.fileio import get_local_path

from ..errors import InputError
from ..sample_meta import BAD_IMAGES
from .coco_file import category_ids, complete_annotation, leaves_folder, read_coco_file
from .image_file import MAX_PIXELS
from .loading import BadImageError, with_checked_loading

# Side in pixels of the picture in place of one that cannot be read and says no usable size.
_BLANK_SIDE = 32


@DATASETS.register_module()
class ClassNameCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset``, strict about its files and forgiving about their order.

    - Label i is the category *named* ``metainfo.classes[i]``, in whatever order the file lists its
      categories. mmdet numbers labels by the order in the file.
    - Missing ``area`` and ``iscrowd`` are taken as the area of the box and 0.
    - Images are loaded by
      :class:`~mmdet_dinov2.data.loading.CheckedLoadImageFromFile`. One that cannot be read
      raises in training, where :class:`~mmdet_dinov2.data.seeded.SeededDataset` replaces it; in
      tests a blank picture stands for it, whose detections do not count.
    - Only the serialised annotations stay in memory, which processes of a dataloader share.

    Args:
        *args: As for :class:`mmdet.datasets.CocoDataset`.
        **kwargs: As for :class:`mmdet.datasets.CocoDataset`.

    Raises:
        InputError: If the file is not of COCO's form, lacks a class, or names images outside of
            their folder.
    """

    @property
    def pipeline(self) -> Compose:
        """The transforms of a sample; those that load an image check it."""
        return self._pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Compose) -> None:
        self._pipeline = with_checked_loading(pipeline)

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
                    f"inside of the image folder '{folder}'; correct the file, or data_prefix.img"
                )
        annotations = defaultdict(list)
        # Which images have boxes of a category, for filter_cfg.filter_empty_gt.
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
        """Reads and serialises the annotations, and forgets what only that needed."""
        super().full_init()
        self.__dict__.pop('cat_img_map', None)

    def prepare_data(self, idx: int) -> Any:
        """Returns a sample; see mmengine's ``BaseDataset``.

        Raises:
            BadImageError: If the image cannot be read, except in tests.
        """
        try:
            return super().prepare_data(idx)
        except BadImageError as error:
            if not self.test_mode:
                raise
            info = self.get_data_info(idx)
            height, width = int(info['height']), int(info['width'])
            if not 0 < height * width <= MAX_PIXELS:
                height = width = _BLANK_SIDE
            blank = np.zeros((height, width, 3), dtype=np.uint8)
            sample = self.pipeline({**info, 'img': blank})
            if not hasattr(sample.get('data_samples'), 'set_metainfo'):
                raise  # nobody could tell the blank picture from an image
            sample['data_samples'].set_metainfo({BAD_IMAGES: (error.described,)})
            return sample
