"""Two processes on the CPU through the launch scripts."""

import json
import os

import pytest

from .tools import ROOT, run_script, write_config


@pytest.fixture(scope='module')
def environment():
    """Few threads for each process, and CPUs even where there are GPUs."""
    return dict(os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')


def test_two_processes_train_and_test(tmp_path, environment):
    config = write_config(tmp_path)
    work = tmp_path / 'work dir'  # a space, on purpose
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', work, cwd=tmp_path, env=environment
    )
    assert result.returncode == 0, result.stderr[-3000:]
    (log,) = work.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    # 8 images / (2 processes x batch 2) = 2 steps in each of 2 epochs
    assert len([record for record in records if 'loss' in record]) == 4
    result = run_script(
        ROOT / 'tools/dist_test.sh', config, work / 'epoch_2.pth', 2, '--work-dir', tmp_path / 't',
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'coco/bbox_mAP' in result.stdout + result.stderr


def test_an_error_is_printed_once(tmp_path, environment):
    config = write_config(tmp_path)
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'work',
        '--cfg-options', 'model.backbone.window_size=4', cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode != 0
    assert result.stderr.count('error: window_size=4 needs global_attn_indexes') == 1


@pytest.mark.parametrize(
    ('script', 'args', 'message'),
    [
        ('dist_train.sh', (), 'CONFIG'),
        ('dist_train.sh', ('none.py', '2'), 'none.py'),
        ('dist_test.sh', ('none.py',), 'CHECKPOINT'),
        ('slurm_train.sh', ('debug',), 'PARTITION'),
        ('slurm_test.sh', (), 'PARTITION'),
    ],
)
def test_scripts_say_what_they_need(tmp_path, script, args, message):
    result = run_script(ROOT / 'tools' / script, *args, cwd=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr
