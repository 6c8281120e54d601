"""The dataset class: labels by name, completed fields, refused names, replaced images."""

import copy
import json
import os

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS
from mmengine.dataset import Compose
from torch.utils.data import DataLoader

from mmdet_dinov2.data import (
    BadImageError,
    CheckedLoadImageFromFile,
    ClassNameCocoDataset,
    coco_dataset,
)
from mmdet_dinov2.data.coco_file import leaves_folder
from mmdet_dinov2.data.seeded import SeededDataset, SeededIndex, StepBatchSampler, derive_seed
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.sample_meta import BAD_IMAGES, SAMPLE_SEED, bad_images

from .helpers import NAMES, Data, assert_has, coco_content, only
from .images import BROKEN, jpeg

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs', meta_keys=('img_path', 'img_id', 'ori_shape', 'flip')),
]


@pytest.fixture
def data(tmp_path):
    """A dataset with images, read by a ``ClassNameCocoDataset``."""
    data = Data(tmp_path)
    for split in ('train', 'val', 'test'):
        data.cfg[f'{split}_dataloader'].dataset.type = 'ClassNameCocoDataset'
    for index in range(3):
        for split in ('train', 'val'):
            (tmp_path / split / f'{index}.jpg').write_bytes(jpeg(40, 30, seed=index))
    return data


def build(data, split='train', **kwargs):
    return DATASETS.build({**data.cfg[f'{split}_dataloader'].dataset, **kwargs})


def infos(dataset):
    return [dataset.get_data_info(index) for index in range(len(dataset))]


def test_it_reads_what_mmdet_reads(data):
    content = coco_content(num_images=6)
    annotations = content['annotations']
    annotations[0]['iscrowd'] = 1
    annotations[1]['bbox'] = [1, 2, 0, 9]
    annotations[2]['area'] = 0
    annotations[5]['ignore'] = 1
    annotations[6]['image_id'] = 99
    annotations[7]['category_id'] = 1000
    content['images'][4]['width'] = 8
    content['annotations'] = annotations[:-3]
    data.write('train', content)
    for filter_cfg in (None, dict(filter_empty_gt=True, min_size=10)):
        ours = build(data, filter_cfg=filter_cfg)
        theirs = build(data, type=CocoDataset, filter_cfg=filter_cfg)
        assert infos(ours) == infos(theirs) and len(ours) == (6 if filter_cfg is None else 4)
        assert ours.get_cat_ids(0) == theirs.get_cat_ids(0)
    assert ours.cat_img_map is None


def test_labels_follow_the_names(data):
    data.train.metainfo.classes = classes = ('red fox', 'cat', 'dog')
    for split in ('val', 'test'):
        data.cfg[f'{split}_dataloader'].dataset.metainfo.classes = classes
    content = coco_content()
    content['categories'].reverse()
    data.write('val', content)
    names = {category['id']: category['name'] for category in content['categories']}
    for split in ('train', 'val'):
        instances = infos(build(data, split))[0]['instances']
        found = [classes[instance['bbox_label']] for instance in instances]
        assert found == [names[a['category_id']] for a in content['annotations'][:3]]
    assert build(data, 'val').cat_ids == [11, 7, 9]
    findings = data.check()
    assert {finding.severity for finding in findings} == {'info'}
    assert 'lists the categories in a different order' in findings[0].message


def test_missing_fields_are_completed_and_the_file_stays(data):
    content = coco_content()
    expected = infos(build(data))
    for annotation in content['annotations'][1:]:
        del annotation['area'], annotation['iscrowd']
    data.write('train', content)
    before = data.path('train').read_bytes()
    assert infos(build(data)) == expected
    area, crowd = data.check('train')
    assert_has(only([area], 'info'), "lacks 'area' in 8", 'first id 2', 'the area of the box')
    assert_has(only([crowd], 'info'), "lacks 'iscrowd' in 8", '0 is used instead')
    assert data.path('train').read_bytes() == before
    # mmdet's own metric reads both.
    data.write('val', content)
    found = data.check('val')
    assert [finding.severity for finding in found] == ['error', 'error']
    data.cfg.val_evaluator.type = 'ClassNameCocoMetric'
    assert {finding.severity for finding in data.check('val')} == {'info'}


def test_missing_classes_are_refused(data):
    with pytest.raises(InputError, match=r"the classes \['wolf'\] are not among"):
        build(data, metainfo=dict(classes=('cat', 'wolf')))
    content = coco_content(names=(*NAMES, 'dog'))
    data.write('train', content)
    with pytest.raises(InputError, match=r"more than one category named 'dog'"):
        build(data)


@pytest.mark.parametrize(
    ('folder', 'name', 'leaves'),
    [
        ('a/b', 'c.jpg', False),
        ('a/b/', 'c/../d.jpg', False),
        ('a/b', '../b/c.jpg', False),
        ('a/b', '../c.jpg', True),
        ('a/b', '../bc/d.jpg', True),
        ('a/b', 'c/../../../d.jpg', True),
        ('a/b', '/etc/passwd', True),
        ('/a/b', '/a/b/c.jpg', False),
        ('/', '/etc/passwd', False),
        ('', 'c.jpg', False),
        ('', '../c.jpg', True),
        ('', '/c.jpg', True),
        ('', 'http://example.com/c.jpg', True),
        ('s3://bucket/a', 'b.jpg', False),
        ('s3://bucket/a', '../b.jpg', True),
        ('../data', 'c.jpg', False),
        ('../data', '../c.jpg', True),
        ('a', 'b\0.jpg', True),
    ],
)
def test_names_that_leave_the_folder(folder, name, leaves):
    assert leaves_folder(folder, name) == leaves


@pytest.mark.parametrize('name', ['../secret.jpg', '/etc/passwd', 'http://example.com/a.jpg'])
def test_path_traversal_is_refused(data, name):
    content = coco_content()
    content['images'][1]['file_name'] = name
    data.write('train', content)
    assert_has(only(data.check('train')), '1 images of', 'not inside the image folder', name)
    with pytest.raises(InputError, match='not inside the image folder'):
        build(data)


@pytest.mark.parametrize('name', ['LoadImageFromFile', 'mmcv.LoadImageFromFile'])
def test_images_are_loaded_with_checks_outside_of_a_runner(data, monkeypatch, name):
    said = []
    monkeypatch.setattr(coco_dataset, 'print_log', lambda text, logger: said.append(text))
    pipeline = [dict(type=name, color_type='grayscale'), *PIPELINE[1:]]
    given = copy.deepcopy(pipeline)
    loading = build(data, pipeline=pipeline).pipeline.transforms[0]
    assert type(loading) is CheckedLoadImageFromFile and loading.color_type == 'grayscale'
    assert pipeline == given
    (line,) = said
    assert 'in place of LoadImageFromFile' in line and 'pipeline.0' in line
    build(data, pipeline=[dict(type='CheckedLoadImageFromFile')])
    assert len(said) == 1


def test_hooks_switch_the_pipeline_through_the_wrapper(data):
    """As mmdet's ``PipelineSwitchHook`` does for the last epochs."""
    dataset = build(data, pipeline=PIPELINE)
    wrapper = SeededDataset(dataset)
    wrapper.pipeline = Compose(PIPELINE[:2])
    assert wrapper.pipeline is dataset.pipeline and len(dataset.pipeline.transforms) == 2


def seeds_and_paths(dataset, workers=0, batch_size=2, epochs=1):
    """Returns seed, image and flip of all samples in order, and the bad images."""
    sampler = StepBatchSampler(range(len(dataset)), batch_size=batch_size, seed=5)
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=workers, collate_fn=lambda samples: samples
    )
    found, bad = [], []
    for epoch in range(epochs):
        sampler.start(epoch * len(sampler))
        for batch in loader:
            samples = [sample['data_samples'] for sample in batch]
            found += [(s.metainfo[SAMPLE_SEED], s.img_id, s.flip) for s in samples]
            bad += bad_images(samples)
    return found, bad


@pytest.mark.parametrize('case', BROKEN)
def test_a_bad_image_is_replaced_by_its_seed(data, case):
    path = data.root / 'train' / '1.jpg'
    path.write_bytes(BROKEN[case][0])
    dataset = build(data, pipeline=PIPELINE)
    with pytest.raises(BadImageError):
        dataset[1]
    seeded = SeededDataset(dataset)
    item = SeededIndex(1, 77)
    sample = seeded[item]['data_samples']
    assert sample.metainfo[SAMPLE_SEED] == 77 and sample.img_id != 11
    ((bad_path, reason),) = set(bad_images([sample]))
    assert bad_path == str(path) and BROKEN[case][1] in reason
    np.random.seed(0)  # earlier random numbers do not matter
    again = seeded[item]['data_samples']
    assert (again.img_id, again.flip) == (sample.img_id, sample.flip)
    assert BAD_IMAGES not in seeded[SeededIndex(0, 77)]['data_samples'].metainfo
    # Other seeds choose other images.
    assert {seeded[SeededIndex(1, seed)]['data_samples'].img_id for seed in range(9)} == {10, 12}


def test_replacements_do_not_depend_on_processes(data):
    (data.root / 'train' / '1.jpg').unlink()
    dataset = SeededDataset(build(data, pipeline=PIPELINE))
    expected = seeds_and_paths(dataset, epochs=2)
    assert len(expected[0]) == 6 and len(expected[1]) >= 2
    assert seeds_and_paths(dataset, workers=2, epochs=2) == expected
    # The first attempt keeps its seed, so the flip of the replacement comes from it.
    seeds = [seed for seed, _, _ in expected[0]]
    assert seeds == [derive_seed(5, step, index) for step, index in
                     [(0, 0), (0, 1), (1, 2), (2, 0), (2, 1), (3, 2)]]  # fmt: skip


def test_no_readable_image_is_an_error(data):
    for index in range(3):
        (data.root / 'train' / f'{index}.jpg').unlink()
    dataset = SeededDataset(build(data, pipeline=PIPELINE))
    with pytest.raises(InputError, match='16 images in a row cannot be read, the last one '):
        dataset[SeededIndex(0, 1)]


def test_a_bad_image_is_blank_in_tests(data):
    for index, (content, size) in enumerate([(b'', (40, 30)), (b'x', (10**6, 10**6))]):
        (data.root / 'val' / f'{index}.jpg').write_bytes(content)
        info = json.loads(data.path('val').read_text())
        info['images'][index].update(width=size[0], height=size[1])
        data.write('val', info)
    dataset = build(data, 'val', pipeline=PIPELINE)
    samples = [dataset[index] for index in range(3)]
    shapes = [tuple(sample['inputs'].shape) for sample in samples]
    assert shapes == [(3, 30, 40), (3, 32, 32), (3, 30, 40)]
    assert all(sample['inputs'].max() == 0 for sample in samples[:2])
    found = bad_images([sample['data_samples'] for sample in samples])
    assert [os.path.basename(path) for path, _ in found] == ['0.jpg', '1.jpg']
    assert BAD_IMAGES not in samples[2]['data_samples'].metainfo


def test_it_is_a_coco_dataset(data):
    assert issubclass(ClassNameCocoDataset, CocoDataset)
    subset = build(data, pipeline=PIPELINE, indices=2)
    assert len(subset) == 2 and subset.get_subset(1)[0]['data_samples'].img_id == 10
