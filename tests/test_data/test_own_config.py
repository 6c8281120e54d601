"""A user's dataset in a config."""

import copy

import pytest
from mmengine.config import Config

from mmdet_dinov2.data.own_config import (
    repeat_small_training_set,
    require_training_data,
    use_own_data,
)
from mmdet_dinov2.data.own_data import OwnData, OwnSplit
from mmdet_dinov2.drawing.palette import class_colours
from mmdet_dinov2.errors import InputError


@pytest.fixture
def cfg(root):
    return Config.fromfile(root / 'configs/dino_dinov2_s_ft.py')


def own_data(*splits, root='/data/cells', images='/data/cells/images', num_images=30):
    return OwnData(
        root,
        ('a', 'b'),
        {s: OwnSplit(f'{root}/annotations/{s}.json', images, num_images) for s in splits},
        (),
    )


def test_everything_comes_from_the_data_and_the_rest_stays(cfg):
    before = copy.deepcopy(cfg)
    use_own_data(cfg, own_data('train', 'val', 'test'))
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        assert dataset.type == before[f'{split}_dataloader'].dataset.type
        assert dataset.data_root == '/data/cells/'
        assert dataset.ann_file == f'annotations/{split}.json'
        assert dataset.data_prefix == dict(img='images/')
        assert dataset.metainfo.classes == ('a', 'b') and len(dataset.metainfo.palette) == 2
        assert dataset.pipeline == before[f'{split}_dataloader'].dataset.pipeline
        assert dataset.get('test_mode') == (split != 'train' or None)
    assert cfg.train_dataloader.dataset.filter_cfg == dict(filter_empty_gt=False)
    assert cfg.model.bbox_head.num_classes == 2
    assert cfg.val_evaluator == before.val_evaluator and 'ann_file' not in cfg.val_evaluator
    assert cfg.optim_wrapper == before.optim_wrapper


def test_every_head_of_a_detector_of_two_stages_gets_the_classes(root):
    cfg = Config.fromfile(root / 'configs/vitdet/mask_rcnn_dinov2_s_100ep.py')
    heads = cfg.model.roi_head
    heads.bbox_head = [heads.bbox_head, copy.deepcopy(heads.bbox_head)]  # a cascade
    use_own_data(cfg, own_data('train', 'val'))
    heads = cfg.model.roi_head
    assert [head.num_classes for head in (*heads.bbox_head, heads.mask_head)] == [2, 2, 2]
    assert cfg.val_evaluator.metric == ['bbox', 'segm']


def test_files_outside_the_folder_keep_their_path(cfg):
    use_own_data(cfg, own_data('train', 'val', images='/data/cells'))
    assert cfg.val_dataloader.dataset.data_prefix == dict(img='')
    data = own_data('train', 'val', root='/disk/data', images='/data/cells-2')
    use_own_data(cfg, OwnData('/data/cells', *list(data.__dict__.values())[1:]))
    assert cfg.train_dataloader.dataset.ann_file == '/disk/data/annotations/train.json'
    assert cfg.train_dataloader.dataset.data_prefix == dict(img='/data/cells-2/')


def test_without_test_split_the_val_split_is_tested(cfg):
    use_own_data(cfg, own_data('train', 'val'))
    assert cfg.test_dataloader.dataset.ann_file == 'annotations/val.json'
    assert cfg.test_dataloader.dataset is not cfg.val_dataloader.dataset


def test_without_train_split_it_can_be_tested(cfg):
    use_own_data(cfg, own_data('test'))
    assert cfg.test_dataloader.dataset.ann_file == 'annotations/test.json'
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper', 'val_dataloader', 'val_cfg'):
        assert cfg[key] is None
    with pytest.raises(InputError, match=r'cells has no train split, only test \(annotations/test'):
        require_training_data(cfg)


@pytest.mark.parametrize(
    'splits', [('train', 'val'), ('train', 'val', 'test'), ('val',), ('test',), ('val', 'test')]
)
@pytest.mark.parametrize('name', ['dino_dinov2_quickstart', 'dino_dinov2_s_ft'])
def test_nothing_of_the_data_of_a_saved_config_is_left(root, tmp_path, name, splits):
    cfg = Config.fromfile(root / f'configs/{name}.py')
    use_own_data(cfg, own_data('train', 'val', 'test', root='/old/place', images='/old/images'))
    repeat_small_training_set(cfg, images_per_step=4)
    cfg.train_dataloader.dataset.setdefault('indices', [1, 2])
    cfg.test_pipeline[0].backend_args = dict(backend='petrel', path_mapping={'/old': 's3://old'})
    cfg.val_dataloader.dataset.pipeline = cfg.test_pipeline
    cfg.dump(tmp_path / 'saved.py')
    cfg = Config.fromfile(tmp_path / 'saved.py')
    use_own_data(cfg, own_data(*splits, root='/new/place', images='/new/images', num_images=1000))
    for split in ('train', 'val', 'test'):
        dataset = (cfg[f'{split}_dataloader'] or {}).get('dataset')
        assert (dataset is not None) == (split in splits or split == 'test')
        if dataset:
            assert dataset.type == 'ClassNameCocoDataset' and 'indices' not in dataset
    assert 'old' not in cfg.pretty_text.replace('threshold', '') and 'shapes' not in cfg.pretty_text


def test_a_config_that_repeats_its_images_already_is_left_alone(cfg):
    use_own_data(cfg, own_data('train', 'val'))
    assert repeat_small_training_set(cfg, images_per_step=4)
    before = copy.deepcopy(cfg.train_dataloader)
    assert repeat_small_training_set(cfg, images_per_step=4) is None
    assert cfg.train_dataloader == before


def test_configs_of_other_data_sets(root):
    cfg = Config.fromfile(root / 'configs/dino_dinov2_quickstart.py')
    cfg.val_evaluator = [dict(type='CocoMetric', ann_file='x.json', classwise=True)]
    cfg.test_evaluator = dict(type='VOCMetric')
    use_own_data(cfg, own_data('train', 'val'))
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'ClassNameCocoDataset' and 'generate' not in dataset
    assert cfg.val_evaluator == [dict(type='CocoMetric', classwise=True)]
    assert cfg.test_evaluator == dict(type='ClassNameCocoMetric')


def test_wrapped_data_sets(cfg):
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', pipeline=[], dataset=cfg.train_dataloader.dataset
    )
    use_own_data(cfg, own_data('train', 'val'))
    wrapper = cfg.train_dataloader.dataset
    assert wrapper.type == 'MultiImageMixDataset'
    assert wrapper.dataset.ann_file == 'annotations/train.json'
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[{}, {}])
    with pytest.raises(InputError, match='combines 2 \\(ConcatDataset\\)'):
        use_own_data(cfg, own_data('train', 'val'))


def test_configs_that_do_not_fit(cfg):
    other = copy.deepcopy(cfg)
    other.model.pop('bbox_head')
    with pytest.raises(InputError, match='does not have a bbox_head'):
        use_own_data(other, own_data('train', 'val'))
    other = copy.deepcopy(cfg)
    other.val_dataloader = None
    with pytest.raises(InputError, match='needs a config with val_dataloader'):
        use_own_data(other, own_data('train', 'val'))
    with pytest.raises(InputError, match='no train, val or test split'):
        use_own_data(cfg, own_data())


@pytest.mark.parametrize(
    ('num_images', 'times'), [(30, 7), (196, 2), (197, None), (200, None), (1, 200)]
)
def test_epochs_of_small_sets_have_enough_steps(cfg, num_images, times):
    use_own_data(cfg, own_data('train', 'val', num_images=num_images))
    assert cfg.min_epoch_steps == 50 and cfg.train_dataloader.batch_size == 4
    note = repeat_small_training_set(cfg, images_per_step=4)
    dataset = cfg.train_dataloader.dataset
    if times is None:
        assert note is None and dataset.ann_file == 'annotations/train.json'
    else:
        assert dataset.type == 'RepeatDataset' and dataset.times == times
        assert dataset.dataset.ann_file == 'annotations/train.json'
        assert -(-num_images * times // 4) >= 50 and f'repeated {times} times' in note


def test_other_recipes_repeat_nothing(root):
    cfg = Config.fromfile(root / 'configs/dino_dinov2_b_12ep.py')
    use_own_data(cfg, own_data('train', 'val', num_images=2))
    assert repeat_small_training_set(cfg, images_per_step=4) is None


def test_colours_differ():
    colours = class_colours(100)
    assert len(set(colours)) == 100 and colours[:3] == class_colours(3)
    assert all(0 <= channel <= 255 for colour in colours for channel in colour)
