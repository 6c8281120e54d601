"""The documentation: its commands run, its links and names exist."""

import glob
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from mmdet.registry import DATASETS, METRICS, MODELS, TASK_UTILS, TRANSFORMS, VISUALIZERS
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import (
    DATA_SAMPLERS,
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    MODEL_WRAPPERS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    OPTIM_WRAPPERS,
    RUNNERS,
)

from mmdet_dinov2.models import DINOv2, PaddingAwareDINO, SimpleFeaturePyramid
from mmdet_dinov2.models.dino_decoder import PaddingAwareDecoder
from mmdet_dinov2.models.dino_encoder import PaddingAwareEncoder

from .tools import ROOT, run_command, run_tool, write_config

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]

# Run by tests of their own: a word of the command, the test, and a word of that.
ELSEWHERE = {
    'tools/slurm_train.sh': ('test_engine/test_slurm.py', 'tools/slurm_train.sh'),
    'tools/slurm_test.sh': ('test_engine/test_slurm.py', 'tools/slurm_test.sh'),
    'mmdet_dinov2 replay': ('test_hooks/test_nonfinite.py', "'replay_batch'"),
    '--suite gpu': ('test_benchmark/test_suites.py', 'gpu'),
    '--suite threads': ('test_benchmark/test_suites.py', "run_suite('threads'"),
    '--suite real-time': ('test_benchmark/test_suites.py', "run_suite('real-time'"),
    '--suite tiles': ('test_benchmark/test_suites.py', "run_suite('tiles'"),
    '--suite scale': ('test_benchmark/test_scale.py', "SUITES['scale']"),
    'python reader.py': ('test_export/test_reader.py', "'reader.py'"),
    '--suite selection': ('test_benchmark/test_suites.py', "run_suite('selection'"),
    'mmdet_dinov2 select': ('test_selection/test_selecting.py', "'select', config"),
    'mmdet_dinov2 ablate': ('test_benchmark/test_ablation.py', "'ablate'"),
    '--checkpoint CHECKPOINT --num-queries': ('test_benchmark/test_tradeoff.py', "'--checkpoint'"),
    'self_distillation/dinov2_quickstart': (
        'self_distillation.py',
        'self_distillation/dinov2_quickstart.py',
    ),
    'benchmark model.onnx': ('test_export/test_benchmark.py', "'benchmark', exported"),
}
# Commands of others.
FOREIGN = ('source .venv/bin/activate', 'pre-commit install')

# What stands for the reader's own things, and what the test puts there.
PLACES = [
    (r'work_dirs/\w+/epoch_\d+\.pth', '{checkpoint}'),
    (r'configs/dino_\w+\.py', '{config}'),
    (r'(?<=mmdet_dinov2 )(\w+) dino_dinov2_\w+', r'\1 {config}'),
    (r'work_dirs/\w+', '{run}'),
    (r'\bmodel_final\.pth', '{checkpoint}'),
    (r'\bCONFIG\b', '{config}'),
    (r'\bCHECKPOINT\b', '{checkpoint}'),
    (r'\b(OTHER_)?WORK_DIR\b', '{run}'),
    (r'\bIMAGES\b', '{images}'),
    (r'\bIMAGE\b', '{images}/*'),
    (r'\bPATH\b', '{data}'),
    (r'\bFOLDER\b', '{photos}'),
    (r'\bSRC\b', '{checkpoint}'),
    (r'\bDST\b', 'converted.pth'),
]


def shell_commands():
    """Commands of all pages, each once, as ids for the tests."""
    commands = {}
    for page in PAGES:
        for block in re.findall(r'^```shell\n(.*?)^```', page.read_text(), re.M | re.S):
            for line in block.replace('\\\n', ' ').splitlines():
                command = re.sub(r'\s{2,}#.*', '', line).strip()
                if command and command not in FOREIGN:
                    commands.setdefault(command, page.name)
    return list(commands)


def in_place(command):
    """The command with names of the test's things in braces."""
    for pattern, place in PLACES:
        command = re.sub(pattern, place, command)
    # Small sizes, and as many processes as there are cores on a small machine.
    command = command.replace('--arch small base', '--long-side 84 --repeats 1')
    command = command.replace('fp32 bf16 --batch-size 2 16', 'bf16 --batch-size 1 2')
    command = command.replace('168 --batch-size 8', '84 --batch-size 2 --repeats 1')
    return re.sub(r'(dist_\w+\.sh .*) 4\b', r'\1 2', command)


PYTHON_COMMANDS = sorted(
    {
        in_place(command)
        for command in shell_commands()
        if 'make ' not in command and not any(name in command for name in ELSEWHERE)
    }
)


@pytest.fixture(scope='module')
def things(tmp_path_factory):
    """A folder with a trained tiny model, pictures, and an environment to run commands in."""
    folder = tmp_path_factory.mktemp('docs')
    for name in ('tools', 'configs', 'requirements'):
        (folder / name).symlink_to(ROOT / name)
    binaries = folder / 'bin'
    binaries.mkdir()
    python = binaries / 'python'
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    # The learning rate drops late: a forecast needs evaluations before it.
    extra = """
work_dir = 'work_dirs/tiny'
param_scheduler = [dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[11])]
"""
    config = write_config(folder, extra)
    run = folder / 'run'
    run_tool('train', config, '--work-dir', run)
    images = folder / 'images'
    images.mkdir()
    for path in sorted((folder / 'shapes/val').iterdir())[:2]:
        shutil.copy(path, images)
    photos = folder / 'photos'
    photos.mkdir()
    for path in images.iterdir():  # other bytes, so other photos
        (photos / path.name).write_bytes(path.read_bytes() + b' ')
    # Two epochs have no curve to forecast from: continue the log with a plausible one.
    (log,) = run.glob('*/vis_data/scalars.json')
    with log.open('a') as file:
        for epoch in range(3, 13):
            record = {'coco/bbox_mAP': 0.55 - 0.4 * epoch**-0.5, 'step': epoch}
            file.write(json.dumps(record) + '\n')
    environment = dict(
        os.environ,
        PATH=f'{binaries}{os.pathsep}{os.environ["PATH"]}',
        PYTHONPATH=str(ROOT),
        PYTHON=sys.executable,
        CUDA_VISIBLE_DEVICES='',
        OMP_NUM_THREADS='1',
        MPLBACKEND='Agg',
    )
    places = dict(
        config=config,
        run=run,
        checkpoint=run / 'epoch_2.pth',
        images=images,
        photos=photos,
        data=folder / 'shapes',
    )
    return folder, environment, places


@pytest.mark.slow
@pytest.mark.parametrize('command', PYTHON_COMMANDS)
def test_commands_run(things, command, monkeypatch):
    folder, environment, places = things
    # Each command finds what the training left, not what the command before it did.
    shutil.rmtree(folder / 'work_dirs', ignore_errors=True)
    shutil.copytree(places['run'], folder / 'work_dirs/tiny')
    command = command.format(**places)
    program, *words = shlex.split(command)
    if program == 'mmdet_dinov2':
        monkeypatch.chdir(folder)
        monkeypatch.setenv('MPLBACKEND', 'Agg')
        run_command(*(file for word in words for file in sorted(glob.glob(word)) or [word]))
        return
    result = subprocess.run(
        ['bash', '-c', command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_there_are_commands():
    assert len(PYTHON_COMMANDS) > 10
    assert all('{' in command or 'configs' in command for command in PYTHON_COMMANDS)


@pytest.mark.parametrize('word', ELSEWHERE)
def test_commands_that_other_tests_run(word):
    file, what = ELSEWHERE[word]
    assert what in (ROOT / 'tests' / file).read_text()


@pytest.mark.parametrize('command', [c for c in shell_commands() if 'make ' in c])
def test_targets_exist(command):
    result = subprocess.run(
        ['bash', '-c', command.replace('make', 'make --dry-run', 1)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_and_configs_exist(page):
    text = page.read_text()
    for target in re.findall(r'\]\((?!https?://|#)([^)#]+)', text):
        assert (page.parent / target).exists(), f'{page}: {target}'
    for name in re.findall(r'(?:_base_/\w+/)?\bdino_(?:dinov[23]|lingbot|tipsv2)_\w+\.py', text):
        assert (ROOT / 'configs' / name).exists(), f'{page}: {name}'


def test_the_pages_of_the_api_name_modules_that_exist():
    for page in (ROOT / 'docs/api').glob('*.md'):
        for name in re.findall(r'^::: (.+)$', page.read_text(), re.M):
            parts = [part for part in name.split('.') if not part[:1].isupper()]
            path = ROOT.joinpath(*parts)
            assert path.is_dir() or path.with_suffix('.py').is_file(), f'{page}: {name}'


REGISTRIES = (
    DATASETS, DATA_SAMPLERS, EVALUATOR, HOOKS, LOG_PROCESSORS, LOOPS, METRICS, MODELS,
    MODEL_WRAPPERS, OPTIM_WRAPPERS, OPTIM_WRAPPER_CONSTRUCTORS, RUNNERS, TASK_UTILS,
    TRANSFORMS, VISUALIZERS,
)  # fmt: skip


def test_every_registered_class_is_on_a_page_of_the_api():
    named = {
        name
        for page in (ROOT / 'docs/api').glob('*.md')
        for name in re.findall(r'^::: (.+)$', page.read_text(), re.M)
    }
    registered = {
        module
        for registry in REGISTRIES
        for module in registry.module_dict.values()
        if re.match(
            r'mmdet_dinov2\.(?!analysis|benchmark)', module.__module__
        )  # configs name no others
    }
    assert len(registered) > 25
    for module in registered:
        assert named & {module.__module__, f'{module.__module__}.{module.__name__}'}, module


def keys_of_page(page):
    """Settings that the last column of a table names whole, such as ``model.num_queries``."""
    roots = 'model|optim_wrapper|train_cfg|train_dataloader|default_hooks|randomness'
    cells = [line.rsplit('|', 2)[1] for line in page.read_text().splitlines() if line[:1] == '|']
    return re.findall(rf'`((?:{roots})(?:\.\w+)+)`', ' '.join(cells))


def arguments_of(owner):
    """Arguments of a class and of those that it hands the rest to."""
    return {name for base in owner.__mro__ for name in inspect.signature(base.__init__).parameters}


def test_the_settings_for_people_from_elsewhere_exist():
    keys = keys_of_page(ROOT / 'docs/coming-from.md')
    cfg = Config.fromfile(ROOT / 'configs/dino_dinov2_b_ft_12ep.py')
    # Whose arguments they are, where the configs leave them at their default.
    owners = {
        'model': PaddingAwareDINO,
        'model.backbone': DINOv2,
        'model.neck': SimpleFeaturePyramid,
        'model.encoder': PaddingAwareEncoder,
        'model.decoder': PaddingAwareDecoder,
        'optim_wrapper': OptimWrapper,
    }
    assert len(keys) > 20
    for key in keys:
        parent, _, name = key.rpartition('.')
        value = cfg
        for part in parent.split('.'):
            assert part in value, key
            value = value[part]
        owner = owners.get(parent)
        assert name in value or name in arguments_of(owner), key


PYTHON_BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r'^```python\n(.*?)^```', page.read_text(), re.M | re.S)
]


@pytest.mark.slow
@pytest.mark.parametrize(('page', 'block'), PYTHON_BLOCKS)
def test_python_runs(things, monkeypatch, tmp_path, page, block):
    folder, _, places = things
    monkeypatch.chdir(tmp_path)
    if '_base_' in block:  # a config
        block = re.sub(r"'(dino_|_base_/)", rf"'{ROOT}/configs/\1", block)
        (tmp_path / 'own.py').write_text(block)
        cfg = Config.fromfile(tmp_path / 'own.py')
        assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline
        if 'metainfo' in block:
            assert cfg.train_dataloader.dataset.ann_file == 'annotations/train.json'
            assert 'classes' in cfg.val_dataloader.dataset.metainfo
        return
    image = next(places['images'].iterdir())
    for name in ('a.jpg', 'b.jpg'):
        shutil.copy(image, tmp_path / name)
    block = re.sub(r"'work_dirs/[^']+'", repr(str(places['checkpoint'])), block)
    block = block.replace("'dino_dinov2_s_ft'", repr(str(places['config'])))
    exec(block.replace("'PATH'", repr(str(places['data']))), {})
