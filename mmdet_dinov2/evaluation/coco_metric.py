"""COCO's box metric, with the fast implementation where it is installed and results per class."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.fileio import dump, get_local_path
from mmengine.logging import MMLogger

from ..data.coco_file import category_ids, read_coco_file
from ..errors import InputError
from ..wording import text_table
from .coco_evaluation import AREAS, CocoEvaluation, choose_backend, evaluate_boxes
from .image_boxes import ImageBoxes, image_boxes
from .matches import SCORE_THRESHOLD
from .plots import class_table, confusion_table, write_quality
from .quality import DetectionQuality, measure_quality

# IoU threshold and index of the area of each result, by mmdet's names.
_AP_ITEMS = {
    'mAP': (None, 0),
    'mAP_50': (0.5, 0),
    'mAP_75': (0.75, 0),
    'mAP_s': (None, 1),
    'mAP_m': (None, 2),
    'mAP_l': (None, 3),
}
# Confusion matrices of more classes are written to files only.
_MAX_TABLE_CLASSES = 12


@METRICS.register_module()
class ClassNameCocoMetric(CocoMetric):
    """mmdet's ``CocoMetric`` for boxes, with results for every class.

    - Uses faster-coco-eval where it is installed, else pycocotools. The numbers are the same, and
      are not rounded.
    - Finds classes by name, whatever their order in the annotation file.
    - Fills in ``area`` and ``iscrowd`` where annotations lack them.
    - Returns zeros if there are no predictions at all.
    - Scores the images that were evaluated, not all that the annotation file lists.
    - Logs tables of the classes, and writes tables and pictures to ``report_dir``.

    Args:
        ann_file: Annotation file; ``None`` uses the annotations that come with the samples.
        metric: ``'bbox'``; for masks and proposals use ``CocoMetric``.
        classwise: Whether to log the tables of the classes and to return their AP.
        proposal_nums: Maximum numbers of detections per image, ascending. As in mmdet, ``mAP`` uses
            100 if it is among them; everything else uses the last one.
        iou_thrs: IoU thresholds; ``None`` means 0.5, 0.55 ... 0.95.
        metric_items: Results to return, from ``mAP``, ``mAP_50``, ``mAP_75``, ``mAP_s``, ``mAP_m``,
            ``mAP_l`` and ``AR@100`` and the like; ``None`` returns all of AP.
        format_only: Whether to write the predictions without scoring them.
        outfile_prefix: Where to write the predictions: ``PREFIX.bbox.json``, with the category ids
            of the annotation file. ``None`` writes nothing.
        backend: ``'faster_coco_eval'`` or ``'pycocotools'``; ``None`` takes what is installed.
        score_thr: Lowest score of detections that count in the confusion matrix.
        report_dir: Folder for ``evaluation.json`` and the pictures. If it is ``None``, the runner
            sets it to the folder ``evaluation`` of the run; ``''`` writes nothing.
        **kwargs: As for ``CocoMetric``: ``backend_args``, ``collect_device``, ``prefix``.

    Raises:
        InputError: If an argument is out of range, or the annotation file cannot be used.
    """

    # Read by the dataset check.
    fills_missing_fields = True

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = 'bbox',
        classwise: bool = True,
        proposal_nums: Sequence[int] = (100, 300, 1000),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        backend: str | None = None,
        score_thr: float = SCORE_THRESHOLD,
        report_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        if metric not in ('bbox', ['bbox'], ('bbox',)):
            raise InputError(
                f"metric of ClassNameCocoMetric must be 'bbox', but is {metric!r}; for others take "
                f"mmdet's metric: val_evaluator=dict(type='CocoMetric', metric={metric!r})"
            )
        if format_only and not outfile_prefix:
            raise InputError(
                'format_only=True needs outfile_prefix, which says where to write predictions'
            )
        proposal_nums = sorted(proposal_nums)
        known = [*_AP_ITEMS, *(f'AR@{number}' for number in proposal_nums)]
        unknown = [item for item in metric_items or () if item not in known]
        if unknown:
            raise InputError(f'metric_items must be among {known}, but has {unknown}')
        super().__init__(
            metric='bbox',
            classwise=classwise,
            proposal_nums=proposal_nums,
            iou_thrs=iou_thrs,
            metric_items=metric_items,
            format_only=format_only,
            outfile_prefix=outfile_prefix,
            **kwargs,
        )
        self.iou_thrs = np.atleast_1d(np.asarray(self.iou_thrs, dtype=float))
        self.backend = choose_backend(backend)
        self.score_thr = score_thr
        self.report_dir = report_dir
        # Set by the evaluator: paths of images that could not be read, and why.
        self.bad_images: tuple[tuple[str, str], ...] = ()
        self._coco_file = None
        if ann_file is not None:
            with get_local_path(ann_file, backend_args=self.backend_args) as path:
                self._coco_file = read_coco_file(path)
            if self._coco_file.annotations is None and not format_only:
                raise InputError(
                    f"'{ann_file}' has no 'annotations' to score against; name an annotated file"
                )

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keeps the predictions of a batch, and its annotations if there is no annotation file.

        Args:
            data_batch: Not used.
            data_samples: Data samples as dicts, with ``img_id``, ``pred_instances`` and, without
                an annotation file, ``instances``.

        Raises:
            InputError: If there is neither an annotation file nor ``instances``.
        """
        for sample in data_samples:
            truth = dict(img_id=sample['img_id'])
            if self._coco_file is None:
                if 'instances' not in sample:
                    raise InputError(
                        "ClassNameCocoMetric has no ann_file and the samples lack 'instances'; set "
                        "ann_file, or add 'instances' to meta_keys of PackDetInputs"
                    )
                truth['anns'] = sample['instances']
            found = sample['pred_instances']
            arrays = {key: found[key].cpu().numpy() for key in ('bboxes', 'scores', 'labels')}
            self.results.append((truth, dict(arrays, img_id=sample['img_id'])))

    def compute_metrics(self, results: list[tuple[dict, dict]]) -> dict[str, float]:
        """Computes the metrics from pairs of annotations and predictions of all images.

        Returns:
            AP and, with ``classwise``, the AP of each class as ``NAME_precision``. As in COCO, -1
            stands for what does not exist, such as the AP of small boxes where there are none.

        Raises:
            InputError: If there are no images.
        """
        logger: MMLogger = MMLogger.get_current_instance()
        if not results:
            raise InputError('the evaluation got no images; check the dataloader of the split')
        names = list(self.dataset_meta['classes'])
        if self._coco_file is not None:
            self.cat_ids = category_ids(self._coco_file, names)
        else:
            self.cat_ids = list(range(len(names)))
        predictions = {prediction['img_id']: prediction for _, prediction in results}
        if self.outfile_prefix is not None:
            self.results2json(list(predictions.values()), self.outfile_prefix)
        if self.format_only:
            logger.info(f'Predictions: {self.outfile_prefix}.bbox.json')
            return OrderedDict()

        truths = self._truths([truth for truth, _ in results])
        images = [self._image_boxes(truths[key], found) for key, found in predictions.items()]
        evaluation = evaluate_boxes(
            images, len(names), self.iou_thrs, self.proposal_nums, self.backend
        )
        quality = measure_quality(images, evaluation, names, self.score_thr, self.bad_images)
        self._log(logger, evaluation, quality)
        values = OrderedDict()
        if self.classwise:
            for entry in quality.classes:
                if entry.ap is not None:
                    values[f'{entry.name}_precision'] = entry.ap
        for item in self.metric_items or _AP_ITEMS:
            values[f'bbox_{item}'] = self._item(evaluation, item)
        return values

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict[str, str]:
        """Writes the predictions in COCO's format; see mmdet's ``CocoMetric``."""
        rows = [
            dict(
                image_id=result['img_id'],
                bbox=self.xyxy2xywh(box),
                score=float(score),
                category_id=self.cat_ids[label],
            )
            for result in results
            for box, score, label in zip(
                result['bboxes'], result['scores'], result['labels'], strict=True
            )
        ]
        path = f'{outfile_prefix}.bbox.json'
        dump(rows, path)
        return dict(bbox=path)

    def _truths(self, truths: Sequence[dict]) -> dict[Any, list[dict]]:
        """Returns the annotations of every image by its id, with labels for category ids."""
        found: dict[Any, list[dict]] = {truth['img_id']: [] for truth in truths}
        if self._coco_file is None:
            for truth in {truth['img_id']: truth for truth in truths}.values():
                for instance in truth['anns']:
                    x1, y1, x2, y2 = map(float, instance['bbox'])
                    annotation = dict(
                        bbox=[x1, y1, x2 - x1, y2 - y1],
                        category_id=int(instance['bbox_label']),
                        iscrowd=int(instance.get('ignore_flag', 0)),
                    )
                    found[truth['img_id']].append(annotation)
            return found
        labels = {category: label for label, category in enumerate(self.cat_ids)}
        for annotation in self._coco_file.annotations:
            label = labels.get(annotation['category_id'])
            if label is not None and annotation['image_id'] in found:
                found[annotation['image_id']].append(dict(annotation, category_id=label))
        left_out = len(self._coco_file.images) - len(found)
        if left_out > 0:
            MMLogger.get_current_instance().warning(
                f"{left_out} of {len(self._coco_file.images)} images of '{self._coco_file.path}' "
                'were not evaluated; the scores are for the others'
            )
        return found

    @staticmethod
    def _image_boxes(truths: Sequence[dict], found: dict) -> ImageBoxes:
        boxes = np.array(found['bboxes'], dtype=float).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        labels = [annotation['category_id'] for annotation in truths]
        return image_boxes(truths, labels, boxes, found['scores'], found['labels'])

    def _item(self, evaluation: CocoEvaluation, item: str) -> float:
        """Returns a result by mmdet's name for it."""
        if item.startswith('AR@'):
            column = self.proposal_nums.index(int(item.removeprefix('AR@')))
            return evaluation.average_recall(column=column)
        iou, area = _AP_ITEMS[item]
        # As mmdet does: 100 detections for mAP, the most for all others.
        hundred = item == 'mAP' and 100 in self.proposal_nums
        column = self.proposal_nums.index(100) if hundred else -1
        return evaluation.average_precision(iou, area, column=column)

    def _log(self, logger: MMLogger, evaluation: CocoEvaluation, quality: DetectionQuality) -> None:
        lines = [f'Scores of {quality.num_images} images ({self.backend}):']
        for item, (iou, area) in _AP_ITEMS.items():
            shown = (
                f'{self.iou_thrs[0]:.2f}:{self.iou_thrs[-1]:.2f}' if iou is None else f'{iou:.2f}'
            )
            hundred = item == 'mAP' and 100 in self.proposal_nums
            lines.append(
                f' Average Precision  (AP) @[ IoU={shown:<9} | area={AREAS[area]:>6s} | '
                f'maxDets={100 if hundred else self.proposal_nums[-1]:>4d} ] = '
                f'{self._item(evaluation, item):0.3f}'
            )
        for number in self.proposal_nums:
            lines.append(
                f' Average Recall     (AR) @[ IoU={self.iou_thrs[0]:.2f}:{self.iou_thrs[-1]:.2f} | '
                f'area=   all | maxDets={number:>4d} ] = '
                f'{self._item(evaluation, f"AR@{number}"):0.3f}'
            )
        if self.classwise:
            lines.append(text_table(*class_table(quality.classes)))
            if len(quality.classes) <= _MAX_TABLE_CLASSES:
                confusions = quality.confusions
                lines.append(
                    f'Confusions at score {confusions.score_thr:g}, IoU {confusions.iou_thr:g}:'
                )
                lines.append(text_table(*confusion_table(confusions, quality.names)))
        logger.info('\n'.join(lines))
        if self.report_dir:
            write_quality(quality, self.report_dir)
            logger.info(f'Tables and pictures of the evaluation: {self.report_dir}')
