"""Random annotation files: the check never fails, and files without errors train and score."""

import io
import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from rich.console import Console

from mmdet_dinov2.analysis.dataset_pictures import images_figure, sample_images
from mmdet_dinov2.data import check_config
from mmdet_dinov2.data.findings import findings_table
from mmdet_dinov2.data.full_check import check_dataset
from mmdet_dinov2.data.seeded import SeededDataset, SeededIndex
from mmdet_dinov2.evaluation import ClassNameCocoMetric

from ..tiny import tiny_detector, total_loss
from .helpers import assert_is_one_sentence
from .images import jpeg

CLASSES = ('cat', 'dog', 'fox')  # as many as the tiny detector has
SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
numbers = st.floats(-60, 60) | st.integers(-60, 60) | st.sampled_from([0, 0.5, 1, 1e9])


def mostly(usual, unusual=anything):
    """The first strategy, and sometimes the other."""
    return st.integers(0, 30).flatmap(lambda number: usual if number else unusual)


ids = st.integers(0, 6)
images = st.lists(
    mostly(
        st.fixed_dictionaries(
            dict(
                id=mostly(ids),
                file_name=mostly(st.sampled_from([f'{i}.jpg' for i in range(4)] + ['../0.jpg'])),
                width=mostly(st.sampled_from([40, 40.0, 39])),
                height=mostly(st.just(30)),
            )
        )
    ),
    max_size=4,
)
categories = st.lists(
    mostly(st.fixed_dictionaries(dict(id=mostly(ids), name=mostly(st.sampled_from(CLASSES))))),
    max_size=4,
)
annotations = st.lists(
    mostly(
        st.fixed_dictionaries(
            dict(
                id=mostly(st.integers(0, 100) | st.text('ab', max_size=2)),
                image_id=mostly(ids),
                category_id=mostly(ids),
                bbox=mostly(st.lists(numbers, min_size=4, max_size=4)),
            ),
            optional=dict(
                area=mostly(numbers), iscrowd=mostly(st.integers(0, 1)), ignore=st.integers(0, 1)
            ),
        )
    ),
    max_size=8,
)
files = mostly(
    st.fixed_dictionaries(
        dict(images=mostly(images), categories=mostly(categories)),
        optional=dict(annotations=mostly(annotations), info=anything),
    )
)


@st.composite
def clean_files(draw):
    """Files that differ in everything that is allowed: order, ids, boxes, missing fields."""
    category_ids = draw(st.permutations([3, 0, 'x']))
    names = draw(st.permutations(CLASSES))
    image_ids = draw(st.lists(st.integers(-5, 50), min_size=1, max_size=4, unique=True))
    content = dict(
        images=[
            dict(id=key, file_name=f'{number}.jpg', width=40, height=30)
            for number, key in enumerate(image_ids)
        ],
        categories=[dict(id=key, name=name) for key, name in zip(category_ids, names)],
        annotations=[
            dict(id=0, image_id=image_ids[0], category_id=category_ids[0], bbox=[2, 3, 12.5, 20])
        ],
    )
    for number in range(draw(st.integers(0, 6))):
        annotation = dict(
            id=number + 1,
            image_id=draw(st.sampled_from([*image_ids, 99])),
            category_id=draw(st.sampled_from([*category_ids, 98])),
            bbox=draw(st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4)),
        )
        annotation.update(
            draw(
                st.fixed_dictionaries(
                    {},
                    optional=dict(
                        area=st.floats(-1, 1e4), iscrowd=st.booleans(), ignore=st.integers(0, 1)
                    ),
                )
            )
        )
        content['annotations'].append(annotation)
    return content


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    (folder / 'images').mkdir()
    for index in range(4):
        (folder / 'images' / f'{index}.jpg').write_bytes(jpeg(40, 30, seed=index))
    return folder


@pytest.fixture(scope='module')
def model():
    return tiny_detector()


def config_of(root, content):
    (root / 'a.json').write_text(json.dumps(content))
    dataset = dict(
        type='ClassNameCocoDataset',
        data_root=str(root),
        ann_file='a.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=CLASSES),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackDetInputs'),
        ],
    )
    evaluator = dict(type='ClassNameCocoMetric')
    return Config(
        dict(
            model=dict(bbox_head=dict(num_classes=3), num_queries=20),
            train_dataloader=dict(dataset=dataset),
            val_dataloader=dict(dataset=dict(dataset, test_mode=True)),
            val_evaluator=evaluator,
        )
    )


def train_and_score(cfg, root, model=None):
    """Loads all images, computes the loss for them, and scores boxes at random places."""
    dataset = SeededDataset(DATASETS.build(cfg.train_dataloader.dataset))
    samples = [dataset[SeededIndex(index, index)] for index in range(len(dataset))]
    for sample in samples:
        boxes = sample['data_samples'].gt_instances
        assert boxes.bboxes.tensor.isfinite().all() and (boxes.labels < 3).all()
    if model is not None:
        batch = model.data_preprocessor(pseudo_collate(samples), training=True)
        loss = total_loss(model(**batch, mode='loss'))
        loss.backward()
        assert loss.isfinite() and loss > 0
    metric = ClassNameCocoMetric(str(root / 'a.json'), report_dir='')
    metric.dataset_meta = dict(classes=CLASSES)
    tests = DATASETS.build(cfg.val_dataloader.dataset)
    for index in range(len(tests)):
        data_sample = DetDataSample(
            metainfo=dict(img_id=tests.get_data_info(index)['img_id'], ori_shape=(30, 40))
        )
        rng = np.random.default_rng(index)
        corners = torch.tensor(rng.uniform(0, 30, (index, 2, 2))).sort(1).values.flatten(1)
        data_sample.pred_instances = InstanceData(
            bboxes=corners,
            labels=torch.tensor(rng.integers(0, 3, index)),
            scores=torch.tensor(rng.uniform(0, 1, index)),
        )
        metric.process({}, [data_sample.to_dict()])
    values = metric.evaluate(len(tests))
    assert -1 <= values['coco/bbox_mAP'] <= 1


@SETTINGS
@given(content=files)
def test_the_check_never_fails(root, content):
    cfg = config_of(root, content)
    findings = check_config(cfg)
    for finding in findings:
        assert finding.severity in ('error', 'warning', 'info')
        assert_is_one_sentence(finding.message)
    report = check_dataset(cfg, ('train', 'val'), workers=1)
    assert set(findings) <= set(report.findings)
    table = io.StringIO()
    Console(file=table, width=100).print(findings_table(report.findings))
    assert table.getvalue()
    for source, coco in report.files.items():
        images_figure(sample_images(source, coco, 2))
    if not any(finding.severity == 'error' for finding in findings):
        train_and_score(cfg, root)


@settings(SETTINGS, max_examples=6)
@given(content=clean_files())
def test_what_is_clean_trains(root, model, content):
    cfg = config_of(root, content)
    findings = check_config(cfg)
    errors = [finding for finding in findings if finding.severity == 'error']
    # The one mistake that random boxes can still make: they may all look like corners.
    if not any('look like x1' in finding.message for finding in errors):
        assert errors == []
        train_and_score(cfg, root, model)
