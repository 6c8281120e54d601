"""COCO's evaluation with pycocotools, on the columns of this project."""

import contextlib
import io

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def run_pycocotools(boxes, num_classes, iou_thrs, max_detections, by_masks=False):
    """Returns the ``COCOeval`` object; ids of images, annotations and detections count from 1."""
    truths = [
        dict(
            id=row + 1,
            image_id=int(boxes.true.images[row]) + 1,
            category_id=int(boxes.true.labels[row]),
            bbox=boxes.true.boxes[row].tolist(),
            area=float(boxes.true.areas[row]),
            iscrowd=int(boxes.true.crowd[row]),
        )
        for row in range(len(boxes.true.labels))
    ]
    found = [
        dict(
            id=row + 1,
            image_id=int(boxes.found.images[row]) + 1,
            category_id=int(boxes.found.labels[row]),
            bbox=boxes.found.boxes[row].tolist(),
            area=float(boxes.found.boxes[row, 2] * boxes.found.boxes[row, 3]),
            iscrowd=0,
            score=float(boxes.found.scores[row]),
        )
        for row in range(len(boxes.found.labels))
    ]
    if by_masks:
        for side, masks in ((truths, boxes.true.masks), (found, boxes.found.masks)):
            for entry, mask in zip(side, masks, strict=True):
                entry['segmentation'] = mask
        for entry in found:
            entry['area'] = float(coco_mask.area(entry['segmentation']))
    # Run lengths have their own size; pycocotools wants one for polygons.
    images = [dict(id=number + 1, height=1, width=1) for number in range(boxes.num_images)]
    categories = [dict(id=label) for label in range(num_classes)]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for annotations in (truths, found):
            side = COCO()
            side.dataset = dict(images=images, categories=categories, annotations=annotations)
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, 'segm' if by_masks else 'bbox')
        evaluation.params.imgIds = [image['id'] for image in images]
        evaluation.params.catIds = list(range(num_classes))
        evaluation.params.maxDets = list(max_detections)
        evaluation.params.iouThrs = np.array(iou_thrs)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation
