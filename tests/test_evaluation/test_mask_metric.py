"""The metric's scores of masks, against mmdet's."""

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric
from pycocotools import mask as coco_mask

from mmdet_dinov2.errors import InputError
from mmdet_dinov2.evaluation import ClassNameCocoMetric
from mmdet_dinov2.evaluation.image_results import pack
from mmdet_dinov2.instance_masks import decode_mask

from .test_coco_metric import CLASSES, evaluate, predictions_for, random_content, write

BOTH = ['bbox', 'segm']


def hexagon(x, y, w, h):
    """Returns a polygon that touches all sides of a box."""
    return [x + w / 4, y, x + w, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h, x, y + h / 3]


def masked_content(seed=0, **kwargs):
    """Returns annotations with polygons, run lengths for crowds, and ascending ids."""
    content = random_content(seed, category_ids=(5, 17, 40), **kwargs)
    for annotation in content['annotations']:
        polygon = hexagon(*annotation['bbox'])
        annotation['segmentation'] = [polygon]
        if annotation['iscrowd']:
            (mask,) = masks_of([polygon])
            annotation['segmentation'] = dict(mask, counts=mask['counts'].decode())
    return content


def masks_of(polygons, height=200, width=300):
    return [
        coco_mask.merge(coco_mask.frPyObjects([polygon], height, width)) for polygon in polygons
    ]


def masked_predictions(content, seed=0, as_tensors=False):
    """Returns data samples whose masks lie in their boxes."""
    samples = predictions_for(content, seed)
    for sample in samples:
        found = sample.pred_instances
        corners = found.bboxes.double().numpy()
        boxes = np.c_[corners[:, :2], corners[:, 2:] - corners[:, :2]]
        masks = masks_of([hexagon(*box) for box in boxes.tolist()])
        if as_tensors:
            arrays = [decode_mask(mask) for mask in masks]
            masks = torch.tensor(np.array(arrays, dtype=bool).reshape(-1, 200, 300))
        found.masks = masks
    return samples


@pytest.mark.parametrize('as_tensors', [False, True])
def test_the_numbers_are_those_of_mmdet(tmp_path, as_tensors):
    content = masked_content()
    path = write(tmp_path, content)
    theirs = evaluate(
        CocoMetric(path, metric=BOTH), masked_predictions(content, as_tensors=as_tensors)
    )
    samples = masked_predictions(content, as_tensors=as_tensors)
    ours = evaluate(ClassNameCocoMetric(path, metric=BOTH), samples)
    assert 0.1 < ours['coco/segm_mAP'] < 0.9 and ours['coco/segm_mAP'] != ours['coco/bbox_mAP']
    for key, value in theirs.items():  # which mmdet rounds
        assert ours[key] == pytest.approx(value, abs=5.01e-4), key
    classes = [ours[f'coco/{name}_segm_precision'] for name in CLASSES]
    assert np.mean(classes) == pytest.approx(ours['coco/segm_mAP'], abs=0.02)
    alone = evaluate(ClassNameCocoMetric(path, metric='segm'), samples)
    assert alone == {key: value for key, value in ours.items() if 'segm' in key}
    boxes = evaluate(ClassNameCocoMetric(path), samples)
    assert boxes == {key: value for key, value in ours.items() if 'segm' not in key}


def test_the_truth_as_prediction(tmp_path):
    content = masked_content()
    content['annotations'] = [a for a in content['annotations'] if not a['iscrowd']]
    path = write(tmp_path, content)
    samples = predictions_for(content, 0)
    names = {category['id']: label for label, category in enumerate(content['categories'])}
    for image, sample in zip(content['images'], samples):
        own = [a for a in content['annotations'] if a['image_id'] == image['id']]
        found = type(sample.pred_instances)()
        boxes = np.array([a['bbox'] for a in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found.bboxes = torch.tensor(boxes)
        found.labels = torch.tensor([names[a['category_id']] for a in own], dtype=torch.long)
        found.scores = torch.ones(len(own))
        found.masks = masks_of([a['segmentation'][0] for a in own])
        sample.pred_instances = found
    found = evaluate(ClassNameCocoMetric(path, metric=BOTH), samples)
    assert found['coco/segm_mAP'] == 1 and found['coco/bbox_mAP'] == pytest.approx(1)


def test_the_scores_do_not_depend_on_processes_and_order(tmp_path):
    content = masked_content()
    path = write(tmp_path, content)
    samples = masked_predictions(content)
    expected = evaluate(ClassNameCocoMetric(path, metric=BOTH), samples)
    shares = [[*samples[0::2], samples[1]], [], samples[1::2][::-1]]  # one image comes twice
    parts = []
    for share in shares:
        metric = ClassNameCocoMetric(path, metric=BOTH)
        metric.process({}, [entry.to_dict() for entry in share])
        parts.append(pack(metric.results))
    assert all(array.dtype != object for part in parts for array in part.values())
    metric.dataset_meta = dict(classes=CLASSES)
    found = metric.compute_metrics(parts)
    assert {f'coco/{key}': value for key, value in found.items()} == expected


def test_annotations_may_come_with_the_samples(tmp_path):
    content = masked_content()
    for annotation in content['annotations']:
        annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
    samples = masked_predictions(content)
    expected = evaluate(ClassNameCocoMetric(write(tmp_path, content), metric=BOTH), samples)
    labels = {category['id']: label for label, category in enumerate(content['categories'])}
    for image, entry in zip(content['images'], samples):
        instances = []
        for a in content['annotations']:
            if a['image_id'] == image['id']:
                x, y, w, h = a['bbox']
                instances.append(
                    dict(
                        bbox=[x, y, x + w, y + h],
                        bbox_label=labels[a['category_id']],
                        ignore_flag=a['iscrowd'],
                        mask=a['segmentation'],
                    )
                )
        entry.set_metainfo(dict(instances=instances))
    assert evaluate(ClassNameCocoMetric(metric=BOTH), samples) == pytest.approx(expected)


def test_objects_without_a_mask_count_for_boxes_only(tmp_path):
    content = masked_content()
    path = write(tmp_path, content)
    samples = masked_predictions(content)
    whole = evaluate(ClassNameCocoMetric(path, metric=BOTH), samples)
    for annotation in content['annotations'][::3]:
        annotation['segmentation'] = [[1, 2]]
    part = evaluate(ClassNameCocoMetric(write(tmp_path, content), metric=BOTH), samples)
    assert part['coco/bbox_mAP'] == whole['coco/bbox_mAP']
    assert abs(part['coco/segm_mAP'] - whole['coco/segm_mAP']) < 0.15
    # As crowd regions of the size of their box.
    for annotation in content['annotations'][::3]:
        x, y, w, h = annotation['bbox']
        annotation.update(segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]], iscrowd=1)
    crowds = evaluate(ClassNameCocoMetric(write(tmp_path, content), metric='segm'), samples)
    assert crowds['coco/segm_mAP'] == pytest.approx(part['coco/segm_mAP'], abs=1e-3)


def test_what_cannot_be_scored(tmp_path):
    content = masked_content()
    path = write(tmp_path, content)
    with pytest.raises(InputError, match="'segm' needs masks, but the model finds boxes only"):
        evaluate(ClassNameCocoMetric(path, metric=BOTH), predictions_for(content, 0))
    samples = masked_predictions(content)
    samples[3].set_metainfo(dict(ori_shape=(300, 200)))
    with pytest.raises(InputError, match='must have its size of 300 x 200 pixels .* has 200 x 300'):
        evaluate(ClassNameCocoMetric(path, metric=BOTH), samples)
    samples = masked_predictions(content)
    content['images'][0]['width'] = 301
    message = '1 images have a different size .* 200 x 300 pixels .* not 200 x 301'
    with pytest.raises(InputError, match=message):
        evaluate(ClassNameCocoMetric(write(tmp_path, content), metric=BOTH), samples)
    bare = random_content(0)
    with pytest.raises(InputError, match='no annotation of .* has one; add'):
        evaluate(ClassNameCocoMetric(write(tmp_path, bare), metric=BOTH), masked_predictions(bare))
    with pytest.raises(InputError, match="must be 'bbox', 'segm' or both, but is 'proposal'"):
        ClassNameCocoMetric(path, metric='proposal')


def test_predictions_and_report_are_written(tmp_path):
    content = masked_content()
    path, prefix = write(tmp_path, content), str(tmp_path / 'out')
    samples = masked_predictions(content)
    metric = ClassNameCocoMetric(
        path, metric=BOTH, outfile_prefix=prefix, report_dir=str(tmp_path / 'report')
    )
    found = evaluate(metric, samples)
    rows = json.loads((tmp_path / 'out.segm.json').read_text())
    boxes = json.loads((tmp_path / 'out.bbox.json').read_text())
    assert [{k: v for k, v in row.items() if k != 'segmentation'} for row in rows] == boxes
    ids = {sample.img_id: sample for sample in samples}
    first = ids[rows[0]['image_id']].pred_instances.masks[0]
    assert decode_mask(rows[0]['segmentation']).tolist() == decode_mask(first).tolist()
    report = json.loads((tmp_path / 'report/evaluation.json').read_text())
    assert report['mask_classes'][0]['ap'] == found['coco/cat_segm_precision']
    assert (tmp_path / 'report/class_ap_masks.png').exists()


def test_no_detections(tmp_path):
    content = masked_content()
    path = write(tmp_path, content)
    samples = masked_predictions(content)
    for sample in samples:
        sample.pred_instances = sample.pred_instances[:0]
    found = evaluate(ClassNameCocoMetric(path, metric=BOTH), samples)
    assert found['coco/segm_mAP'] == found['coco/bbox_mAP'] == 0
