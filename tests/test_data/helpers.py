"""A small COCO dataset on disk, and assertions about findings."""

import copy
import json

from mmengine import Config

from mmdet_dinov2.data import check_config

NAMES = ('cat', 'dog', 'red fox')


def coco_content(num_images=3, names=NAMES):
    """Returns a COCO dict with a box of each category on every image of 40 x 30 pixels."""
    images = [dict(id=10 + i, file_name=f'{i}.jpg', width=40, height=30) for i in range(num_images)]
    annotations = [
        dict(
            image_id=image['id'],
            category_id=7 + 2 * label,
            bbox=[1.0, 2.0, 10.0, 5.0],
            area=50.0,
            iscrowd=0,
        )
        for image in images
        for label in range(len(names))
    ]
    for index, annotation in enumerate(annotations):
        annotation['id'] = 1 + index
    categories = [dict(id=7 + 2 * label, name=name) for label, name in enumerate(names)]
    return dict(images=images, annotations=annotations, categories=categories)


class Data:
    """A dataset on disk in ``root``, and a config that fits it."""

    def __init__(self, root):
        self.root = root
        for split in ('train', 'val'):
            self.write(split, coco_content())
            (root / split).mkdir()
            for index in range(3):
                (root / split / f'{index}.jpg').touch()
        val = dict(dataset=self.dataset('val', test_mode=True))
        evaluator = dict(type='CocoMetric', ann_file=str(self.path('val')))
        self.cfg = Config(
            dict(
                model=dict(bbox_head=dict(num_classes=3)),
                train_dataloader=dict(dataset=self.dataset('train')),
                val_dataloader=val,
                test_dataloader=copy.deepcopy(val),
                val_evaluator=evaluator,
                test_evaluator=copy.deepcopy(evaluator),
            )
        )

    @property
    def train(self):
        return self.cfg.train_dataloader.dataset

    def dataset(self, split, **kwargs):
        return dict(
            type='CocoDataset',
            data_root=str(self.root),
            ann_file=f'{split}.json',
            data_prefix=dict(img=f'{split}/'),
            metainfo=dict(classes=NAMES),
            **kwargs,
        )

    def path(self, split):
        return self.root / f'{split}.json'

    def write(self, split, content):
        self.path(split).write_text(json.dumps(content))

    def check(self, *splits):
        return check_config(self.cfg, splits or ('train', 'val', 'test'))


def only(findings, severity='error', split='train'):
    """Returns the message of the only finding, which must have this severity and split."""
    assert [(finding.severity, finding.split) for finding in findings] == [(severity, split)], (
        findings
    )
    message = findings[0].message
    assert_is_one_sentence(message)
    return message


def assert_is_one_sentence(message):
    assert not message.endswith('.') and '\n' not in message
    assert not message[0].isupper(), message


def assert_has(message, *facts):
    for fact in facts:
        assert str(fact) in message
