"""Options that override a config: slips, types, and options that nothing reads."""

import re

import pytest
from mmengine.config import Config, DictAction

from mmdet_dinov2.config.options import check_options, parse_options
from mmdet_dinov2.errors import InputError

from ..conftest import ROOT


@pytest.fixture(scope='module')
def cfg():
    return Config.fromfile(ROOT / 'configs/dino_dinov2_quickstart.py')


@pytest.mark.parametrize(
    'value',
    [
        '3', '-3', '2.5', '1e-4', 'true', 'False', 'None', 'word', '1,2', '[1,2]', '(1,2)', '[a]',
        '(3,)', '[(1,2),[a,b],c]', '[]', '"[a,b]"', "'a'", '', 'a/b.jpg', 'inf', '1,', '[1,[]]',
        '((600,800),(700,800))',
    ],
)  # fmt: skip
def test_values_are_those_of_mmengine(value):
    assert parse_options([f'a.b={value}']) == {'a.b': DictAction._parse_iterable(value)}


def test_words_stay_as_they_are():
    texts = ['load_from=/my data/a=b.pth', 'names=[red fox, dog]', 'work_dir=007', "a='x y'"]
    assert parse_options(texts) == {
        'load_from': '/my data/a=b.pth',
        'names': ['red fox', 'dog'],
        'work_dir': '007',
        'a': 'x y',
    }


@pytest.mark.parametrize(
    ('texts', 'message'),
    [
        ('model.backbone.init_cfg = None', 'write model.backbone.init_cfg=None'),
        ('a.b= 3', 'write a.b=3'),
        ('a.b =3', 'write a.b=3'),
        ('x=1 a.b = 3 y=2', 'write a.b=3'),
        ('train_dataloader.batch_size:2', 'write train_dataloader.batch_size=2'),
        ('a', 'expected key=value, without spaces around the ='),
        ('=3', 'expected key=value'),
        ('a==3', 'write a=3'),
        ('a.0:b=3', "'a.0:b' is not the name of a setting"),
        ('a..b=3', "'a..b' is not the name of a setting"),
        ('param_scheduler[0].end=3', 'write param_scheduler.0.end=3'),
        ('a=[1,2', "brackets of '[1,2' do not match"),
        ('a=(1,2]', 'do not match'),
        ('a=1)', 'do not match'),
        ("a={'type':'X','b':1}", 'set the entries one by one, such as a.type=NAME'),
        ("a=dict(type='X')", 'set the entries one by one'),
        (f'a=1 {__file__}', 'before --cfg-options'),
    ],
)
def test_slips_are_one_sentence(texts, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        parse_options(texts.split(' '))
    assert str(caught.value).startswith('--cfg-options ') and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('train_dataloader.batch_size=two', "a number (in the config: 8), found 'two'"),
        ('train_dataloader.batch_size=True', 'expected a number'),
        ('train_dataloader.batch_size=', "expected a number (in the config: 8), found ''"),
        ('optim_wrapper.optimizer.lr=1e-4,', 'found [0.0001]; leave out the comma'),
        ('train_dataloader.persistent_workers=yes', 'true or false (in the config: False), found'),
        ('optim_wrapper=3', 'expected settings, such as optim_wrapper.type=VALUE, found 3'),
        ('model.neck.scale_factors=large', 'expected a list, as "[large]", found \'large\''),
        ('param_scheduler.5.end=3', 'there is no entry 5; there are 2, counted from 0'),
        ('param_scheduler.end=3', "'end' stands where the number of one of 2 entries"),
        ('env_cfg.cudnn_benchmrk=True', "'cudnn_benchmrk' of env_cfg; did you mean cudnn_benchm"),
        ('auto_scale_lr.base=3', "nothing reads 'base' of auto_scale_lr"),
    ],
)
def test_values_that_do_not_fit(cfg, text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_options(parse_options([text]), cfg)


@pytest.mark.parametrize(
    'text',
    [
        'train_dataloader.batch_size=4', 'optim_wrapper.optimizer.lr=1', 'model.num_queries=None',
        'model.bbox_head.num_classes=auto', 'model.backbone.arch=s', 'default_hooks.logger=None',
        'train_cfg.max_epochs=1', 'model.neck.scale_factors=[1,2]', 'model.backbone.new=3',
        'optim_wrapper.clip_grad.norm_type=inf', 'train_dataloader.persistent_workers=1',
        'resume=True', 'randomness.seed=3', 'load_from=a.pth', 'custom_hooks.0.type=A',
    ],
)  # fmt: skip
def test_options_that_fit(cfg, text):
    options = parse_options([text])
    assert check_options(options, cfg) == options


def test_numbers_where_the_config_has_text(cfg):
    options = {'train_dataloader.dataset.data_root': 2024, 'work_dir': 7}
    checked = check_options(options, Config(dict(cfg, work_dir='w')))
    assert checked == {'train_dataloader.dataset.data_root': '2024', 'work_dir': '7'}


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('max_epochs', "'max_epochs' is a variable of the config file, which nothing reads after "
         'the file is read; set train_cfg.max_epochs'),
        ('data_root', 'set train_dataloader.dataset.data_root, val_dataloader.dataset.data_root, '
         'test_dataloader.dataset.data_root'),
        ('num_classes', 'set model.bbox_head.num_classes'),
        ('dataset_type', 'set train_dataloader.dataset.type'),
        ('train_pipeline', 'set train_dataloader.dataset.pipeline'),
        ('train_pipeline.0.type', 'set train_dataloader.dataset.pipeline.0.type'),
        ('lr', "the setting 'lr' does not exist; did you mean optim_wrapper.optimizer.lr?"),
        ('batch_size', 'did you mean train_dataloader.batch_size or val_dataloader.batch_size'),
        ('optimizer.lr', 'did you mean optim_wrapper.optimizer.lr?'),
        ('trian_cfg.max_epochs', 'did you mean train_cfg?'),
        ('nonsense', "the setting 'nonsense' does not exist"),
    ],
)  # fmt: skip
def test_options_that_nothing_reads(cfg, option, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_options({option: 1}, cfg)


def test_a_variable_of_own_code_may_be_set(cfg):
    own = Config(dict(cfg.to_dict(), my_flag=1))
    with pytest.raises(InputError, match="'my_flag' is a variable .*; change it in the file"):
        check_options({'my_flag': 2}, own)
    own.custom_imports = dict(imports=['mmdet_dinov2', 'my_hooks'])
    assert check_options({'my_flag': 2}, own) == {'my_flag': 2}
    with pytest.raises(InputError, match=r'set train_cfg\.max_epochs'):
        check_options({'max_epochs': 2}, own)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (
            'train_cfg.max_epoch',
            "'max_epoch' does not exist on EpochTrainLoop; did you mean max_ep",
        ),
        ('default_hooks.checkpoint.intervall', 'did you mean interval?'),
        ('optim_wrapper.optimizer.lrr', "'lrr' does not exist on AdamW"),
        ('train_dataloader.dataset.data_rot', 'did you mean data_root?'),
        ('train_dataloader.sampler.shufle', 'did you mean shuffle?'),
        ('val_evaluator.xx', "'xx' does not exist on ClassNameCocoMetric; it takes"),
        ('param_scheduler.0.endd', 'did you mean end?'),
        (
            'model.test_cfg.max_per_image',
            "'max_per_image' does not exist; did you mean max_per_img",
        ),
        ('optim_wrapper.clip_grad.max_nrm', 'did you mean max_norm?'),
    ],
)
def test_keys_that_their_class_does_not_take(cfg, option, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_options({option: 3}, cfg)


@pytest.mark.parametrize(
    'option',
    [
        'train_cfg.max_bad_share', 'train_cfg.val_begin', 'default_hooks.checkpoint.save_begin',
        'optim_wrapper.accumulative_counts', 'optim_wrapper.optimizer.eps', 'test_cfg.fp16',
        'train_dataloader.dataset.indices', 'train_dataloader.dataset.filter_cfg.min_size',
        'val_evaluator.outfile_prefix', 'param_scheduler.1.last_step', 'model.test_cfg.nms.type',
        'train_dataloader.dataset.pipeline.0.max_pixels', 'default_hooks.new.type',
        'train_dataloader.sampler.round_up', 'model_wrapper_cfg.type', 'load_from',
    ],
)  # fmt: skip
def test_keys_that_their_class_takes(cfg, option):
    assert check_options({option: None}, cfg) == {option: None}
