"""The formats of datasets: one reader for each, and one form that all are turned into.

A reader finds a dataset in a folder and returns a :class:`.found.FoundData`: the classes, and for
each split the content of a COCO annotation file, read when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable

from ..data_folder import DataFolder
from . import coco, darknet, labelme, pascal_voc, yolo
from .found import FoundData

# In this order: the first that finds a dataset is taken.
READERS: dict[str, Callable[[DataFolder], FoundData | None]] = {
    'COCO': coco.find,
    'YOLO': yolo.find,
    'YOLO without data.yaml': darknet.find,
    'Pascal VOC': pascal_voc.find,
    'labelme': labelme.find,
}
