"""The dataset class: labels by name, completed fields, refused names, replaced images."""

import copy
import json
import os
import pickle

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmdet.registry import DATASETS
from mmengine.dataset import Compose, DefaultSampler
from pycocotools import mask as coco_mask
from torch.utils.data import DataLoader

from mmdet_dinov2.data import (
    BadImageError,
    CheckedLoadImageFromFile,
    ClassNameCocoDataset,
    coco_dataset,
)
from mmdet_dinov2.data.coco_file import leaves_folder
from mmdet_dinov2.data.masks_used import uses_masks
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


WITH_MASKS = [dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False)]
POLYGON = [[1, 2, 11, 2, 11, 7]]


@pytest.mark.parametrize(
    ('pipeline', 'arrives'),
    [
        ([dict(type='LoadAnnotations', with_bbox=True)], False),
        (WITH_MASKS, True),
        ([dict(type='RandomApply', transforms=WITH_MASKS)], True),
        ([dict(type='RandomChoice', transforms=[PIPELINE, WITH_MASKS])], True),
        ([dict(type='RandomChoice', transforms=[PIPELINE, PIPELINE])], False),
        # Nobody says what the annotations are for.
        ([], True),
    ],
)
def test_masks_arrive_where_they_are_loaded(data, pipeline, arrives):
    content = coco_content()
    content['annotations'][1]['segmentation'] = POLYGON
    data.write('train', content)
    dataset = build(data, pipeline=pipeline)
    masks = [instance.get('mask') for instance in infos(dataset)[0]['instances']]
    nothing = [[0.0] * 6] if pipeline and arrives else None  # a mask without any pixel
    assert masks == ([nothing, POLYGON, nothing] if arrives else [None] * 3)
    if pipeline == WITH_MASKS:
        content['annotations'] = content['annotations'][1:2]
        data.write('train', content)
        image = dict(type='LoadImageFromFile')
        loaded = build(data, pipeline=[image, *pipeline])[0]
        assert loaded['gt_masks'].masks[0][0].tolist() == POLYGON[0]
    # The check reads the same columns.
    assert uses_masks(pipeline) == arrives


def run_lengths(mask, **others):
    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(encoded, counts=encoded['counts'].decode(), **others)


def test_boxes_are_learned_whatever_their_masks_are(data):
    mask = np.zeros((30, 40))
    mask[2:7, 1:11] = 1
    usable = [
        POLYGON,
        run_lengths(mask),
        dict(size=[30, 40], counts=[32, 5, 1163]),
        [POLYGON[0], [3, 4]],
        POLYGON[0],
    ]
    unusable = [
        None,
        [[1, 2, 3, 4]],
        run_lengths(mask.T),
        dict(size=[30, 40], counts=[10**12, 5]),
        dict(size=[30, 40], counts='zzzz'),
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        'text',
        [['a', 'b', 'c', 'd', 'e', 'f']],
    ]
    content = coco_content(num_images=1)
    entry = content['annotations'][0]
    content['annotations'] = [
        dict(entry, id=index, segmentation=segmentation)
        for index, segmentation in enumerate([*usable, *unusable])
    ]
    data.write('train', content)
    loading = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    pipeline = [dict(type='LoadImageFromFile'), loading, dict(type='PackDetInputs')]
    instances = build(data, pipeline=pipeline)[0]['data_samples'].gt_instances
    areas = instances.masks.areas.tolist()
    assert areas[1:3] == [50, 5] and all(area > 0 for area in areas[: len(usable)])
    assert areas[len(usable) :] == [0] * len(unusable)
    assert instances.bboxes.tensor.tolist() == [[1, 2, 11, 7]] * len(areas)
    # Subclasses that parse objects get the same.
    assert infos(build(data, pipeline=pipeline, serialize_data=False)) == infos(
        build(data, pipeline=pipeline)
    )


def test_an_image_of_a_different_size_than_its_masks_is_bad(data):
    content = coco_content(num_images=1)
    mask = run_lengths(np.ones((30, 40)))
    content['annotations'][0]['segmentation'] = mask
    data.write('train', content)
    loading = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
    pipeline = [dict(type='LoadImageFromFile'), loading, dict(type='PackDetInputs')]
    assert len(build(data, pipeline=pipeline)[0]['data_samples'].gt_instances.masks) == 3
    (data.root / 'train/0.jpg').write_bytes(jpeg(44, 30))
    with pytest.raises(BadImageError, match='it has 30 x 44 pixels .* have 30 x 40; correct'):
        build(data, pipeline=pipeline)[0]
    # Boxes alone are taken as they are; the check names the image.
    assert len(build(data, pipeline=PIPELINE)[0]['data_samples'].gt_instances) == 3


class WithPoints(ClassNameCocoDataset):
    """A dataset that takes more from the entries of a file than boxes."""

    def parse_data_info(self, raw_data_info):
        info = super().parse_data_info(raw_data_info)
        info['points'] = [entry['points'] for entry in raw_data_info['raw_ann_info']]
        info['city'] = raw_data_info['raw_img_info']['city']
        return info


def test_subclasses_that_parse_entries_get_all_their_fields(data):
    content = coco_content()
    for annotation in content['annotations']:
        annotation['points'] = [annotation['id']]
    for image in content['images']:
        image['city'] = f'city {image["id"]}'
    data.write('train', content)
    dataset = build(data, type=WithPoints, filter_cfg=dict(filter_empty_gt=True))
    found = infos(dataset)
    assert [info['points'] for info in found] == [[[1], [2], [3]], [[4], [5], [6]], [[7], [8], [9]]]
    assert [info.pop('city') for info in found] == ['city 10', 'city 11', 'city 12']
    assert [{k: v for k, v in i.items() if k != 'points'} for i in found] == infos(build(data))


def test_without_serialisation_there_is_a_list(data):
    dataset = build(data, serialize_data=False)
    assert dataset.data_list == [
        {key: value for key, value in info.items() if key != 'sample_idx'}
        for info in infos(build(data))
    ]


@pytest.mark.parametrize(
    ('indices', 'kept'),
    [(2, [0, 1]), (-2, [3, 4]), (0, []), ([2, 0, 2], [2, 0, 2]), ([-1], [4]), ([], [])],
)
def test_subsets(data, indices, kept):
    data.write('train', coco_content(num_images=5))
    images = infos(build(data, type=CocoDataset))
    expected = [dict(images[index], sample_idx=number) for number, index in enumerate(kept)]
    dataset = build(data)
    assert infos(build(data, indices=indices)) == expected
    assert infos(dataset.get_subset(indices)) == expected and len(dataset) == 5
    dataset.get_subset_(indices)
    assert infos(dataset) == expected


def test_wrappers_take_it_for_a_dataset_of_mmdet(data):
    content = coco_content(num_images=4)
    content['annotations'] = [a for a in content['annotations'] if a['id'] not in (2, 5, 8)]
    data.write('train', content)
    found = []
    for cls in ('ClassNameCocoDataset', CocoDataset):
        inner = {**data.train, 'type': cls}
        wrapped = [
            dict(type='RepeatDataset', times=2, dataset=inner),
            dict(type='ConcatDataset', datasets=[inner, dict(inner, indices=2)]),
            dict(type='ClassBalancedDataset', oversample_thr=0.9, dataset=inner),
            dict(type='RepeatDataset', times=2, dataset=dict(inner, lazy_init=True)),
        ]
        datasets = [DATASETS.build(copy.deepcopy(config)) for config in wrapped]
        found.append(
            [[dataset.get_data_info(i) for i in range(len(dataset))] for dataset in datasets]
        )
    assert found[0] == found[1] and [len(part) for part in found[0]] == [8, 6, 5, 8]


def test_copies_and_pickles_have_the_same_images(data):
    dataset = build(data, indices=2)
    for other in (copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert infos(other) == infos(dataset) and len(other) == 2
    assert dataset.get_data_info(-1) == dataset.get_data_info(1)
    with pytest.raises(IndexError):
        dataset.get_data_info(2)


def test_groups_of_sizes_are_those_of_mmdet(data):
    """Without the annotations of all images that a resumed run passes over."""
    rng = np.random.default_rng(0)
    content = coco_content(num_images=23)
    for image in content['images']:
        image.update(width=int(rng.integers(20, 40)), height=30)
    data.write('train', content)
    dataset = SeededDataset(build(data))
    config = dict(type='AspectRatioBatchSampler', drop_last=False)
    for repeated in (False, True):
        if repeated:
            dataset = SeededDataset(
                DATASETS.build(dict(type='RepeatDataset', times=2, dataset=data.train))
            )
        sampler = DefaultSampler(dataset, seed=3)
        ours = StepBatchSampler(sampler, 4, batch_sampler=config)
        theirs = list(AspectRatioBatchSampler(sampler, 4))
        assert [[index for index, _ in batch] for batch in ours] == theirs
        ours.start(2, skip=2)
        assert [[index for index, _ in batch] for batch in ours] == theirs[2:]
    whole = StepBatchSampler(
        sampler, 4, drop_last=True, batch_sampler=dict(type='AspectRatioBatchSampler')
    )
    assert [len(batch) for batch in whole] == [4] * len(whole) and len(whole) == 46 // 4
    sizes = build(data).image_sizes()
    assert np.array(sizes).T.tolist() == [[i['width'], 30] for i in content['images']]


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
