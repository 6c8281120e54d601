"""COCO's metric for boxes and masks, with results per class."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import dump, get_local_path
from mmengine.logging import MMLogger

from ..data.annotation_file import read_annotations
from ..data.coco_file import category_ids
from ..errors import InputError
from ..instance_masks import as_text
from ..wording import text_table
from .coco_evaluation import AREAS, CocoEvaluation, evaluate_boxes
from .evaluated_boxes import EvaluatedBoxes, FoundBoxes, TrueBoxes, true_boxes_of_file
from .gathering import gather_arrays
from .image_results import AllImages, image_result, pack, unpack
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
# By mmdet's names.
_KINDS = ('bbox', 'segm')
# AP with this many detections per image, beside that of images with more boxes.
_HUNDRED = 100
_MAP_AT_100 = f'mAP@{_HUNDRED}'
_PROPOSAL_NUMS = (_HUNDRED, 300, 1000)
# Confusion matrices of more classes are written to files only.
_MAX_TABLE_CLASSES = 12


@METRICS.register_module()
class ClassNameCocoMetric(CocoMetric):
    """mmdet's ``CocoMetric`` for boxes and masks, with results for every class.

    - Scores thousands of images in seconds. The numbers are those of pycocotools, and are not
      rounded.
    - Finds classes by name, whatever their order in the annotation file.
    - Fills in ``area`` and ``iscrowd`` where annotations lack them.
    - Returns zeros if there are no predictions at all.
    - Scores the images that were evaluated, not all that the annotation file lists.
    - Gives the same scores for any number of processes, and whatever the order of the images.
    - Logs tables of the classes, and writes tables and pictures to ``report_dir``.
    - Of masks, objects whose mask is not known are left out, as crowd regions are. mmdet's metric
      ends with an error.

    Args:
        ann_file: Annotation file; ``None`` uses the annotations that come with the samples.
        metric: ``'bbox'``, ``'segm'`` or both; for proposals use ``CocoMetric``. Confusions and
            what else is found by matching go by boxes.
        classwise: Whether to log the tables of the classes and to return their AP.
        proposal_nums: Maximum numbers of detections per image, ascending. As in mmdet, ``mAP`` uses
            100 if it is among them; everything else uses the last one. ``None`` follows the data:
            100, 300, and 1000 or the largest number of boxes in an image, if that is more. If an
            image has more than 100 boxes, ``mAP`` uses the last one too, and ``mAP@100`` is
            returned beside it.
        iou_thrs: IoU thresholds; ``None`` means 0.5, 0.55 ... 0.95.
        metric_items: Results to return, from ``mAP``, ``mAP_50``, ``mAP_75``, ``mAP_s``, ``mAP_m``,
            ``mAP_l``, ``mAP@100``, ``AR@100`` and the like; ``None`` returns all of AP.
        format_only: Whether to write the predictions without scoring them.
        outfile_prefix: Where to write the predictions: ``PREFIX.bbox.json``, with the category ids
            of the annotation file, and with ``'segm'`` also ``PREFIX.segm.json``, with run lengths
            beside the boxes. ``None`` writes nothing.
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
        proposal_nums: Sequence[int] | None = None,
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        score_thr: float = SCORE_THRESHOLD,
        report_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        kinds = [metric] if isinstance(metric, str) else list(metric)
        if not kinds or any(kind not in _KINDS for kind in kinds):
            raise InputError(
                f"metric of ClassNameCocoMetric must be 'bbox', 'segm' or both, but is {metric!r}; "
                f"for others take mmdet's metric: val_evaluator=dict(type='CocoMetric', "
                f'metric={metric!r})'
            )
        if format_only and not outfile_prefix:
            raise InputError(
                'format_only=True needs outfile_prefix, which says where to write predictions'
            )
        self._follows_data = proposal_nums is None
        self._is_crowded = False
        proposal_nums = sorted(_PROPOSAL_NUMS if proposal_nums is None else proposal_nums)
        known = [
            *_AP_ITEMS,
            *([_MAP_AT_100] if _HUNDRED in proposal_nums else []),
            *(f'AR@{number}' for number in proposal_nums),
        ]
        unknown = [item for item in metric_items or () if item not in known]
        if unknown:
            raise InputError(f'metric_items must be among {known}, but has {unknown}')
        super().__init__(
            metric=[kind for kind in _KINDS if kind in kinds],
            classwise=classwise,
            proposal_nums=proposal_nums,
            iou_thrs=iou_thrs,
            metric_items=metric_items,
            format_only=format_only,
            outfile_prefix=outfile_prefix,
            **kwargs,
        )
        self.iou_thrs = np.atleast_1d(np.asarray(self.iou_thrs, dtype=float))
        self.score_thr = score_thr
        self.report_dir = report_dir
        # Set by the evaluator: paths of images that could not be read, and why.
        self.bad_images: tuple[tuple[str, str], ...] = ()
        self._columns = None
        if ann_file is not None:
            with get_local_path(ann_file, backend_args=self.backend_args) as path:
                self._columns = read_annotations(path, segmentations=self._by_masks)
            if not self._columns.annotated and not format_only:
                raise InputError(
                    f"'{ann_file}' has no 'annotations' to score against; name an annotated file"
                )

    @property
    def _by_masks(self) -> bool:
        """Whether masks are scored."""
        return 'segm' in self.metrics

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
            instances: Sequence[dict] = ()
            if self._columns is None:
                if 'instances' not in sample:
                    raise InputError(
                        "ClassNameCocoMetric has no ann_file and the samples lack 'instances'; set "
                        "ann_file, or add 'instances' to meta_keys of PackDetInputs"
                    )
                instances = sample['instances']
            size = sample['ori_shape'] if self._by_masks else None
            found = sample['pred_instances']
            self.results.append(image_result(sample['img_id'], found, instances, size))

    def evaluate(self, size: int) -> dict[str, float]:
        """Computes the metrics from what all processes have; see mmengine's ``BaseMetric``.

        All processes have to call it.

        Args:
            size: Not used: images that came more than once are known by their ids.
        """
        parts = gather_arrays(pack(self.results))
        self.results.clear()
        found: list[dict[str, float] | None] = [None]
        if is_main_process():
            values = self.compute_metrics(parts)
            found = [{f'{self.prefix}/{name}': value for name, value in values.items()}]
        broadcast_object_list(found)
        return found[0]

    def compute_metrics(self, results: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
        """Computes the metrics.

        Args:
            results: The packed results of each process.

        Returns:
            AP as ``bbox_mAP`` and ``segm_mAP`` and the like and, with ``classwise``, the AP of each
            class as ``NAME_precision``, that of its masks as ``NAME_segm_precision``. As in COCO,
            -1 stands for what does not exist, such as the AP of small boxes where there are none.

        Raises:
            InputError: If there are no images, images that the annotation file does not list, or
                masks to score and none to score against.
        """
        logger: MMLogger = MMLogger.get_current_instance()
        images = unpack(results) if results else None
        if images is None or not images.ids:
            raise InputError('the evaluation got no images; check the dataloader of the split')
        names = list(self.dataset_meta['classes'])
        if self._columns is not None:
            self.cat_ids = category_ids(self._columns, names)
        else:
            self.cat_ids = list(range(len(names)))
        if self.outfile_prefix is not None:
            self._write_predictions(images.ids, images.found)
        if self.format_only:
            logger.info(f'Predictions: {self.outfile_prefix}.bbox.json')
            return OrderedDict()

        boxes = EvaluatedBoxes(len(images.ids), self._true_boxes(images), images.found)
        if self._follows_data:
            most = boxes.most_in_an_image()
            self._is_crowded = most > _HUNDRED
            self.proposal_nums = [*_PROPOSAL_NUMS[:-1], max(_PROPOSAL_NUMS[-1], most)]
        if self._by_masks:
            self._check_masks(logger, boxes.true, images)
        evaluations = {
            kind: evaluate_boxes(
                boxes, len(names), self.iou_thrs, self.proposal_nums, by_masks=kind == 'segm'
            )
            for kind in self.metrics
        }
        quality = measure_quality(
            boxes,
            evaluations.get('bbox'),
            names,
            self.score_thr,
            self.bad_images,
            masks=evaluations.get('segm'),
        )
        self._log(logger, evaluations, quality)
        values = OrderedDict()
        if self.classwise:
            for classes, kind in ((quality.classes, ''), (quality.mask_classes, 'segm_')):
                for entry in classes:
                    if entry.ap is not None:
                        values[f'{entry.name}_{kind}precision'] = entry.ap
        for kind, evaluation in evaluations.items():
            for item in self.metric_items or self._ap_items():
                values[f'{kind}_{item}'] = self._item(evaluation, item)
        return values

    def _check_masks(self, logger: MMLogger, true: TrueBoxes, images: AllImages) -> None:
        """Says how many objects have no mask; raises if none has one."""
        unknown = int((~true.known & ~true.crowd).sum())
        if not unknown:
            return
        where = f"'{self._columns.path}'" if self._columns is not None else 'the samples'
        if not true.known.any():
            raise InputError(
                f"the metric 'segm' needs masks, but no annotation of {where} has one; add "
                "'segmentation' to the annotations, or set metric='bbox' of the evaluator"
            )
        logger.warning(
            f'{unknown} of {int((~true.crowd).sum())} objects of {where} have no mask that can be '
            'used; they count for boxes only, and masks that are found on them are not counted'
        )

    def _write_predictions(self, ids: Sequence[int | str], found: FoundBoxes) -> None:
        """Writes the predictions in COCO's format."""
        columns = (found.images, found.boxes, found.scores, found.labels)
        rows = [
            dict(image_id=ids[image], bbox=box, score=score, category_id=self.cat_ids[label])
            for image, box, score, label in zip(*(c.tolist() for c in columns), strict=True)
        ]
        dump(rows, f'{self.outfile_prefix}.bbox.json')
        if found.masks is not None:
            for row, mask in zip(rows, found.masks, strict=True):
                row['segmentation'] = as_text(mask)
            dump(rows, f'{self.outfile_prefix}.segm.json')

    def _true_boxes(self, images: AllImages) -> TrueBoxes:
        """Returns the annotations of the images, from the file if there is one."""
        columns = self._columns
        if columns is None:
            return images.true
        rows = [columns.image_positions.get(image_id, -1) for image_id in images.ids]
        if -1 in rows:
            unknown = [image_id for image_id, row in zip(images.ids, rows, strict=True) if row < 0]
            raise InputError(
                f"the evaluator reads '{columns.path}', which does not list {len(unknown)} of the "
                f'evaluated images, first that of the id {unknown[0]!r}; set ann_file of the '
                'evaluator to the file of its dataset'
            )
        left_out = columns.num_images - len(rows)
        if left_out > 0:
            MMLogger.get_current_instance().warning(
                f"{left_out} of {columns.num_images} images of '{columns.path}' were not "
                'evaluated; the scores are for the others'
            )
        index_of = np.full(columns.num_images, -1)
        index_of[rows] = np.arange(len(rows))
        labels = {category: label for label, category in enumerate(self.cat_ids)}
        label_of = [labels.get(category['id'], -1) for category in columns.categories]
        if self._by_masks:
            sizes = np.c_[columns.heights[rows], columns.widths[rows]]
            wrong = np.flatnonzero((sizes != images.sizes).any(axis=1))
            if len(wrong):
                found, listed = images.sizes[wrong[0]].tolist(), sizes[wrong[0]].tolist()
                raise InputError(
                    f'{len(wrong)} images have a different size than '
                    f"'{columns.path}' says, first that of the id {images.ids[wrong[0]]!r}: "
                    f'{found[0]} x {found[1]} pixels (height x width), not '
                    f'{listed[0]:g} x {listed[1]:g}, so masks cannot be compared; correct the file'
                )
        label_of = np.array(label_of, dtype=np.int64)
        return true_boxes_of_file(columns, index_of, label_of, with_masks=self._by_masks)

    def _item(self, evaluation: CocoEvaluation, item: str) -> float:
        """Returns a result by mmdet's name for it."""
        if item.startswith('AR@'):
            column = self.proposal_nums.index(int(item.removeprefix('AR@')))
            return evaluation.average_recall(column=column)
        iou, area = _AP_ITEMS[item.removesuffix(f'@{_HUNDRED}')]
        column = self.proposal_nums.index(self._max_detections(item))
        return evaluation.average_precision(iou, area, column=column)

    def _ap_items(self) -> list[str]:
        """Returns the names of what is said of AP."""
        return [*_AP_ITEMS, _MAP_AT_100] if self._is_crowded else list(_AP_ITEMS)

    def _max_detections(self, item: str) -> int:
        """Returns how many detections per image a kind of AP counts."""
        # As mmdet does: 100 detections for mAP, the most for all others.
        at_100 = item == _MAP_AT_100 or (item == 'mAP' and not self._is_crowded)
        return _HUNDRED if at_100 and _HUNDRED in self.proposal_nums else self.proposal_nums[-1]

    def _log(
        self, logger: MMLogger, evaluations: Mapping[str, CocoEvaluation], quality: DetectionQuality
    ) -> None:
        lines = []
        for kind, evaluation in evaluations.items():
            of_masks = kind == 'segm'
            what = 'masks' if of_masks else 'boxes'
            if len(evaluations) > 1 or of_masks:
                lines.append(f'Scores of {quality.num_images} images, {what}:')
            else:
                lines.append(f'Scores of {quality.num_images} images:')
            lines += self._figures(evaluation)
            if self.classwise:
                classes = quality.mask_classes if of_masks else quality.classes
                lines.append(text_table(*class_table(classes)))
        if self.classwise and len(quality.names) <= _MAX_TABLE_CLASSES:
            confusions = quality.confusions
            lines.append(
                f'Confusions at score {confusions.score_thr:g}, IoU {confusions.iou_thr:g}:'
            )
            lines.append(text_table(*confusion_table(confusions, quality.names)))
        logger.info('\n'.join(lines))
        if self.report_dir:
            write_quality(quality, self.report_dir)
            logger.info(f'Tables and pictures of the evaluation: {self.report_dir}')

    def _figures(self, evaluation: CocoEvaluation) -> list[str]:
        """Returns the lines of COCO's figures."""
        lines = []
        for item in self._ap_items():
            iou, area = _AP_ITEMS[item.removesuffix(f'@{_HUNDRED}')]
            shown = (
                f'{self.iou_thrs[0]:.2f}:{self.iou_thrs[-1]:.2f}' if iou is None else f'{iou:.2f}'
            )
            lines.append(
                f' Average Precision  (AP) @[ IoU={shown:<9} | area={AREAS[area]:>6s} | '
                f'maxDets={self._max_detections(item):>4d} ] = '
                f'{self._item(evaluation, item):0.3f}'
            )
        for number in self.proposal_nums:
            lines.append(
                f' Average Recall     (AR) @[ IoU={self.iou_thrs[0]:.2f}:{self.iou_thrs[-1]:.2f} | '
                f'area=   all | maxDets={number:>4d} ] = '
                f'{self._item(evaluation, f"AR@{number}"):0.3f}'
            )
        return lines
