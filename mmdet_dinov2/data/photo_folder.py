"""The photos of a folder as a dataset without labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.registry import DATASETS
from mmengine.dataset import BaseDataset

from ..errors import InputError
from .unlabeled_photos import find_unlabeled_photos


@DATASETS.register_module()
class PhotoFolder(BaseDataset):
    """All photos below a folder.

    Args:
        data_root: The folder.
        **kwargs: As for mmengine's ``BaseDataset``, such as ``pipeline``.

    Raises:
        FileNotFoundError: If there is no such folder.
        InputError: If it has no photos.
    """

    def __init__(self, data_root: str, **kwargs: Any) -> None:
        if not data_root:
            raise InputError('PhotoFolder needs the folder of the photos: set its data_root')
        super().__init__(data_root=data_root, **kwargs)

    def load_data_list(self) -> list[Mapping[str, Any]]:
        """Lists the photos; each has ``img_path`` and ``img_id``."""
        photos = find_unlabeled_photos(self.data_root, {})
        return [dict(img_path=str(path), img_id=i) for i, path in enumerate(photos.paths)]
