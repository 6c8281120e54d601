"""Configs in checkpoints are read without running any of them."""

import pytest
from mmengine.config import Config, ConfigDict

from mmdet_dinov2.checkpoint.embedded_config import (
    CONFIG_KEY,
    embedded_config,
    plain_config,
)
from mmdet_dinov2.checkpoint.reading import trust_checkpoints
from mmdet_dinov2.errors import InputError

from ..families import CONFIGS, FAMILIES, family_cfg
from ..tiny import detector_cfg

PIPELINE = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='Resize', scale=(84, 84), keep_ratio=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('ori_shape', 'img_shape', 'scale_factor')),
]


def config(**values):
    """Returns the parts of a training's config that predictions need."""
    loader = dict(
        sampler=dict(type='DefaultSampler'), dataset=dict(type='CocoDataset', pipeline=PIPELINE)
    )
    return dict(dict(model=detector_cfg(), test_dataloader=loader), **values)


def read(content, way):
    """Reads a config from mmengine's text or from plain values."""
    cfg = Config(content)
    meta = {'cfg': cfg.pretty_text} if way == 'text' else {CONFIG_KEY: plain_config(cfg.to_dict())}
    return embedded_config(dict(meta=meta), 'x.pth')


WAYS = pytest.mark.parametrize('way', ['text', 'plain'])


@WAYS
def test_a_config_is_read_as_it_was_written(way):
    found = read(config(custom_imports=dict(imports=['mmdet_dinov2'])), way)
    assert found == dict(model=detector_cfg(), pipeline=PIPELINE)
    assert isinstance(found['pipeline'][1]['scale'], tuple)


@pytest.mark.parametrize('name', FAMILIES)
def test_the_detectors_of_mmdet_are_read(name):
    published = Config.fromfile(CONFIGS / FAMILIES[name][0]).to_dict()
    content = dict(model=published['model'], test_dataloader=published['test_dataloader'])
    assert read(content, 'plain')['model']['type'] == published['model']['type']
    ours = family_cfg(name).to_dict()
    assert read(config(model=ours), 'text')['model']['backbone']['type'] == 'DINOv2'


def test_text_of_other_than_plain_values_is_refused():
    reason = r'plain values \(line 2: __import__\(.*also name a config file'
    text = 'a = 1\nb = __import__("os").system("touch x")'
    with pytest.raises(InputError, match=f'config in x.pth is not made of {reason}'):
        embedded_config(dict(meta=dict(cfg=text)), 'x.pth')


def evil_model(**values):
    return config(model=dict(detector_cfg(), **values))


EVIL = {
    'class of Python': evil_model(neck=dict(type='subprocess.Popen', args=['touch', 'x'])),
    'function of Python': evil_model(neck=dict(type='os.system', command='touch x')),
    'deep inside': evil_model(test_cfg=dict(a=[(dict(b=dict(type='os.system')),)])),
    'function of mmengine': evil_model(neck=dict(type='mmengine.dump', obj=1, file='x.json')),
    'runner': evil_model(neck=dict(type='mmengine.runner.Runner', work_dir='x')),
    'class of torch': evil_model(neck=dict(type='torch.package.PackageImporter')),
    'module': evil_model(neck=dict(type='antigravity')),
    'scope': evil_model(neck=dict(type='SimpleFeaturePyramid', _scope_='antigravity')),
    'package as scope': evil_model(neck=dict(type='antigravity.SimpleFeaturePyramid')),
    'what mmcv evaluates': evil_model(test_cfg=dict(nms=dict(type='torch.x[open("x","w")].nms'))),
    'tracker': evil_model(motion=dict(type='CameraMotionCompensation', warp_mode='open("x","w")')),
    'function of mmcv': evil_model(neck=dict(type='roi_align')),
    'function behind mmcv': evil_model(neck=dict(type='mmcv.ops.nms.os.system')),
    # Its constructor reads a config of Python and a checkpoint of any content.
    'detector with a teacher': config(
        model=dict(type='KnowledgeDistillationSingleStageDetector', teacher_config='x.py')
    ),
    'the same, derived': config(model=dict(type='mmdet.LAD', teacher_ckpt='http://nowhere/x.pth')),
    'language model': evil_model(bbox_head=dict(type='ATSSVLFusionHead', lang_model_name='x')),
    'words': config(
        test_dataloader=dict(
            dataset=dict(pipeline=[dict(type='RandomSamplingNegPos', tokenizer_name='x')])
        )
    ),
    'exported file': config(model=dict(type='ExportedDetector', file='x.onnx')),
    'no name': evil_model(neck=dict(type=['SimpleFeaturePyramid'])),
    'transform': config(
        test_dataloader=dict(dataset=dict(pipeline=[*PIPELINE, dict(type='os.system')]))
    ),
    'wrapped': config(
        test_dataloader=dict(dataset=dict(dataset=dict(pipeline=[dict(type='os.getcwd')])))
    ),
}


@WAYS
@pytest.mark.parametrize('case', EVIL, ids=lambda case: case.replace(' ', '_'))
def test_names_of_anything_but_parts_of_a_detector_are_refused(case, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match='not a part of a detector that is known to .* add --trust-checkpoint'
    ):
        read(EVIL[case], way)
    assert not list(tmp_path.iterdir())


@WAYS
@pytest.mark.parametrize(
    'imports', [dict(imports=['mmdet_dinov2', 'evil']), dict(imports='evil.sub'), ['evil'], 'evil']
)
def test_imports_run_code_and_are_refused(way, imports, tmp_path, monkeypatch):
    (tmp_path / 'evil.py').write_text('open("marker", "w")\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="asks to import 'evil.*--trust-checkpoint"):
        read(config(custom_imports=imports), way)
    assert not (tmp_path / 'marker').exists()


@WAYS
def test_trusted_checkpoints_may_import(way, tmp_path, monkeypatch):
    # Restored afterwards.
    monkeypatch.setenv('MMDET_DINOV2_TRUST_CHECKPOINT', '')
    trust_checkpoints()
    (tmp_path / 'kind.py').write_text(f'open({str(tmp_path / way)!r}, "w").close()\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__('sys').modules, 'kind', raising=False)
    content = evil_model(neck=dict(type='kind.Neck'))
    content['custom_imports'] = dict(imports=['kind'])
    assert read(content, way)['model']['neck'] == dict(type='kind.Neck')
    assert (tmp_path / way).exists()


@WAYS
def test_no_weights_are_loaded_from_elsewhere(way):
    init_cfg = dict(type='Pretrained', checkpoint='http://nowhere/x.pth')
    content = evil_model(
        init_cfg=init_cfg, backbone=dict(detector_cfg()['backbone'], init_cfg=[init_cfg])
    )
    model = read(content, way)['model']
    assert model['init_cfg'] is None and model['backbone']['init_cfg'] is None


@WAYS
def test_images_come_from_the_local_disk(way):
    # mmengine's storage of this name imports a module from a folder, or a zip file, of the config.
    storage = dict(backend='memcached', server_list_cfg='a', client_cfg='b', sys_path='x.pth/x')
    pipeline = [
        dict(PIPELINE[0], backend_args=storage),
        dict(type='RandomApply', transforms=[dict(PIPELINE[0], file_client_args=storage)]),
    ]
    found = read(config(test_dataloader=dict(dataset=dict(pipeline=pipeline))), way)
    assert 'sys_path' not in str(found)


@pytest.mark.parametrize(
    ('meta', 'message'),
    [
        (None, 'x.pth does not carry its config; also name a config file'),
        ({CONFIG_KEY: plain_config(dict(model=dict(type='DINO')))}, 'lacks pipeline'),
        ({'cfg': 'a = 1'}, 'lacks model and pipeline'),
    ],
)
def test_checkpoints_without_a_config(meta, message):
    with pytest.raises(InputError, match=message):
        embedded_config(dict(meta=meta), 'x.pth')


def test_values_that_are_not_plain():
    assert plain_config(ConfigDict(a=object())) is None
    assert plain_config(ConfigDict(a=ConfigDict(b=(1, [dict]))))['a']['b'] == (1, ['builtins.dict'])
