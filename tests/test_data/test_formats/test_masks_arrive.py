"""Known polygons through ``--data`` become the masks that are trained on, and score an AP of 1."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.config import Config
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as coco_mask

from mmdet_dinov2.data import check_config
from mmdet_dinov2.data.own_config import use_own_data
from mmdet_dinov2.data.own_data import find_own_data
from mmdet_dinov2.evaluation import ClassNameCocoMetric
from mmdet_dinov2.instance_masks import encode_masks

CLASSES = ('cell', 'leaf')
# Width and height as shown; the first picture is stored turned by 90 degrees.
SIZES = ((60, 45), (500, 375), (41, 37), (33, 64))
TURNED = 6


def star(rng, width, height):
    """Returns a polygon that is neither convex nor a box, with corners in whole pixels."""
    corners = int(rng.integers(5, 12))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(0.2, 0.5, corners)[:, None] * [width / 2, height / 2]
    centre = rng.uniform(0.5, 0.6, 2) * [width, height]
    points = centre + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.round().astype(int).clip(0, [width, height])


def known(seed):
    """Returns pictures by split: size, and class name and polygon of each object."""
    rng = np.random.default_rng(seed)
    pictures = {}
    for split in ('train', 'val'):
        pictures[split] = [
            (size, [(CLASSES[k % 2], star(rng, *size)) for k in range(int(rng.integers(2, 5)))])
            for size in SIZES
        ]
        pictures[split].append(((20, 30), []))
    return pictures


def drawn(polygon, size):
    """Returns the mask of a polygon, as pycocotools draws it."""
    width, height = size
    (encoded,) = coco_mask.frPyObjects([polygon.ravel().tolist()], height, width)
    return coco_mask.decode(encoded).astype(bool)


def write_picture(path, index, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    exif = Image.Exif()
    if index == 0:
        exif[0x0112] = TURNED
        width, height = height, width
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path, exif=exif)


def write_coco(root, pictures, run_lengths=False, name='annotations/{}.json'):
    for split, entries in pictures.items():
        images, annotations = [], []
        for index, (size, objects) in enumerate(entries):
            write_picture(root / split / f'{index}.jpg', index, size)
            images.append(dict(id=index, file_name=f'{index}.jpg', width=size[0], height=size[1]))
            for label, polygon in objects:
                segmentation = [polygon.ravel().tolist()]
                if run_lengths:
                    (encoded,) = encode_masks(drawn(polygon, size)[None])
                    segmentation = dict(encoded, counts=encoded['counts'].decode())
                x, y = polygon.min(axis=0).tolist()
                w, h = np.ptp(polygon, axis=0).tolist()
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=index,
                        category_id=CLASSES.index(label) + 1,
                        bbox=[x, y, w, h],
                        area=w * h / 2,
                        iscrowd=0,
                        segmentation=segmentation,
                    )
                )
        categories = [dict(id=k + 1, name=label) for k, label in enumerate(CLASSES)]
        path = root / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = dict(images=images, annotations=annotations, categories=categories)
        path.write_text(json.dumps(content))


def write_roboflow(root, pictures):
    write_coco(root, pictures, name='{}/_annotations.coco.json')


def write_run_lengths(root, pictures):
    write_coco(root, pictures, run_lengths=True)


def write_yolo(root, pictures):
    for split, entries in pictures.items():
        for index, (size, objects) in enumerate(entries):
            write_picture(root / f'images/{split}/{index}.jpg', index, size)
            lines = [
                ' '.join([str(CLASSES.index(label)), *(f'{v:.9f}' for v in (polygon / size).flat)])
                for label, polygon in objects
            ]
            path = root / f'labels/{split}/{index}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('\n'.join(lines))
    names = '\n'.join(f'  {index}: {label}' for index, label in enumerate(CLASSES))
    (root / 'data.yaml').write_text(f'train: images/train\nval: images/val\nnames:\n{names}\n')


def write_labelme(root, pictures):
    for split, entries in pictures.items():
        for index, (size, objects) in enumerate(entries):
            write_picture(root / split / f'{index}.jpg', index, size)
            shapes = []
            for number, (label, polygon) in enumerate(objects):
                shape = dict(label=label, shape_type='polygon', points=polygon.tolist())
                if number % 2:  # painted with a brush
                    (x, y), (x2, y2) = polygon.min(axis=0), polygon.max(axis=0)
                    part = drawn(polygon, size)[y:y2, x:x2]
                    buffer = io.BytesIO()
                    Image.fromarray(part).save(buffer, 'PNG')
                    shape = dict(
                        label=label,
                        shape_type='mask',
                        points=[[int(x), int(y)], [int(x2), int(y2)]],
                        mask=base64.b64encode(buffer.getvalue()).decode(),
                    )
                shapes.append(shape)
            content = dict(
                version='5.4.1', shapes=shapes, imagePath=f'{index}.jpg', imageData=None,
                imageWidth=size[0], imageHeight=size[1],
            )  # fmt: skip
            (root / split / f'{index}.json').write_text(json.dumps(content))


@pytest.mark.parametrize(
    'write', [write_coco, write_run_lengths, write_roboflow, write_yolo, write_labelme]
)
def test_polygons_become_targets_and_score_as_the_truth(tmp_path, root, write):
    pictures = known(seed=3)
    (tmp_path / 'data').mkdir()
    write(tmp_path / 'data', pictures)
    data = find_own_data(tmp_path / 'data', tmp_path / 'cache')
    assert data.warnings == ()
    cfg = Config.fromfile(root / 'configs/vitdet/mask_rcnn_dinov2_s_100ep.py')
    use_own_data(cfg, data)
    assert {finding.severity for finding in check_config(cfg)} <= {'info'}
    loading = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape')),
    ]
    for split in ('train', 'val'):
        dataset = DATASETS.build({**cfg[f'{split}_dataloader'].dataset, 'pipeline': loading})
        metric = ClassNameCocoMetric(data.splits[split].ann_file, metric=['bbox', 'segm'])
        metric.dataset_meta = dict(classes=data.classes)
        for index in range(len(dataset)):
            sample = dataset[index]
            found = sample['data_samples']
            size, objects = pictures[split][int(Path(found.img_path).stem)]
            assert sample['inputs'].shape[:0:-1] == found.ori_shape[::-1] == size
            masks = found.gt_instances.masks.to_ndarray().astype(bool)
            assert masks.shape == (len(objects), *size[::-1])
            names = [data.classes[label] for label in found.gt_instances.labels.tolist()]
            expected = [(name, drawn(polygon, size)) for name, polygon in objects]
            assert names == [name for name, _ in expected]
            for mask, (_, truth) in zip(masks, expected):
                # Digits of a label file can move an edge across the centre of a pixel.
                assert (mask ^ truth).sum() <= (2 if write is write_yolo else 0)
            found.pred_instances = InstanceData(
                bboxes=found.gt_instances.bboxes.tensor,
                labels=found.gt_instances.labels,
                scores=torch.ones(len(objects)),
                masks=torch.from_numpy(masks),
            )
            metric.process({}, [found.to_dict()])
        scores = metric.evaluate(len(dataset))
        assert scores['coco/segm_mAP'] == 1 and scores['coco/bbox_mAP'] == pytest.approx(1)
