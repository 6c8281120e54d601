"""Trainings and tests on data with images that cannot be read."""

import json
import os
import shutil

import pytest
from mmengine.logging import MessageHub

from mmdet_dinov2.data import generate_shapes
from mmdet_dinov2.engine.bad_images import BadImages
from mmdet_dinov2.engine.hooks.preemption import STOPPED_EXIT_CODE
from mmdet_dinov2.errors import InputError

from ..test_data.images import cut_off_jpeg, jpeg
from ..test_resume.test_choose import STATEFUL, assert_same, losses_of, states_of
from ..tools import ROOT, failure_of, run_script, run_tool, write_config

ONE_EPOCH = 'train_cfg = dict(max_epochs=1, val_interval=2)\n'


@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    return generate_shapes(tmp_path_factory.mktemp('data') / 'shapes', num_train=8, num_val=4)


@pytest.fixture
def data(sound, tmp_path):
    """The dataset of the tiny config, a copy that tests may damage."""
    return shutil.copytree(sound, tmp_path / 'shapes')


def log_of(work_dir):
    return ''.join(path.read_text() for path in sorted(work_dir.glob('*/*.log')))


def test_a_bad_image_is_skipped_and_named(tmp_path, data):
    (data / 'train/000003.jpg').write_bytes(cut_off_jpeg())
    (data / 'val/000002.jpg').write_bytes(b'')
    config = write_config(tmp_path)
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    log = log_of(tmp_path / 'work')
    named = [line for line in log.splitlines() if 'is replaced by a different one' in line]
    assert len(named) == 1 and '000003.jpg cannot be read (the file is cut off)' in named[0]
    assert '1 of 8 so far' in named[0]
    assert len(losses_of(tmp_path / 'work')) == 8
    # The evaluation continues with an image without detections.
    assert '1 of 4 images cannot be read and were scored as images without detections' in log
    assert '000002.jpg: the file is empty' in log
    (report,) = (tmp_path / 'work').glob('*/evaluation/evaluation.json')
    (bad,) = json.loads(report.read_text())['bad_images']
    assert bad['path'].endswith('val/000002.jpg')
    # One line per pass over the data.
    assert log.count('Memory: ') == 2

    run_tool(
        'test', config, tmp_path / 'work/epoch_2.pth', '--work-dir', tmp_path / 'test',
        '--show-dir', 'drawn', '--cfg-options', f'test_evaluator.outfile_prefix={tmp_path}/out',
    )  # fmt: skip
    predicted = {row['image_id'] for row in json.loads((tmp_path / 'out.bbox.json').read_text())}
    run_tool(
        'test', config, tmp_path / 'work/epoch_2.pth', '--work-dir', tmp_path / 'views', '--tta'
    )
    assert '1 of 4 images cannot be read and were scored' in log_of(tmp_path / 'views')
    assert predicted == {1, 3, 4}
    drawn = {path.name for path in (tmp_path / 'test').glob('*/drawn/*')}
    assert drawn == {'000001.jpg', '000003.jpg', '000004.jpg'}


def test_too_many_bad_images_stop_the_run(tmp_path, data, capfd):
    config = write_config(tmp_path, ONE_EPOCH)
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    before = {p: p.read_bytes() for p in (tmp_path / 'work').glob('*.pth')}
    for number in (2, 5):
        (data / f'train/00000{number}.jpg').write_bytes(b'no image')
    capfd.readouterr()
    more = ('--work-dir', tmp_path / 'work', '--resume')
    error = failure_of(capfd, 'train', config, *more, '--cfg-options', 'train_cfg.max_epochs=2')
    assert '2 of 8 training images cannot be read, more than the 1 that' in error
    assert 'train_cfg.max_bad_share=0.001 allows' in error and '--resume' in error
    assert '000002.jpg: the file is not an image' in error and '000005.jpg' in error
    assert {p: p.read_bytes() for p in (tmp_path / 'work').glob('*.pth')} == before
    run_tool(
        'train', config, *more,
        '--cfg-options', 'train_cfg.max_epochs=2', 'train_cfg.max_bad_share=0.25',
    )  # fmt: skip
    assert (tmp_path / 'work/epoch_2.pth').exists()


def test_no_readable_image_is_one_sentence(tmp_path, data, capfd):
    config = write_config(tmp_path, ONE_EPOCH + 'train_dataloader["num_workers"] = 1\n')
    for path in (data / 'train').iterdir():
        path.write_bytes(b'')
    error = failure_of(capfd, 'train', config, '--work-dir', tmp_path / 'work')
    assert error.startswith('error: 16 images in a row cannot be read')


def test_resuming_stays_exact_with_bad_images(tmp_path, data):
    (data / 'train/000003.jpg').unlink()
    (data / 'train/000006.jpg').write_bytes(b'')
    loop = 'train_cfg = dict(max_epochs=2, val_interval=3, max_bad_share=0.5)\n'
    extra = STATEFUL + loop + 'log_processor = dict(window_size=1)\n'
    options = ('--no-preflight', '--work-dir')
    config = write_config(tmp_path, extra)
    run_tool('train', config, *options, tmp_path / 'undisturbed')
    stopping = extra.replace(
        'custom_hooks = [',
        "custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])\n"
        "custom_hooks = [dict(type='SignalAtStep', step=3), ",
    )
    stopped = write_config(tmp_path, stopping, name='stop.py')
    with pytest.raises(SystemExit) as caught:
        run_tool('train', stopped, *options, tmp_path / 'stopped')
    assert caught.value.code == STOPPED_EXIT_CODE
    run_tool('train', config, *options, tmp_path / 'stopped', '--resume')
    assert '2 of 8 so far' in log_of(tmp_path / 'stopped')  # found before and after the stop
    assert losses_of(tmp_path / 'stopped') == losses_of(tmp_path / 'undisturbed')
    assert_same(states_of(tmp_path / 'stopped'), states_of(tmp_path / 'undisturbed'))


@pytest.mark.slow
def test_processes_agree_on_bad_images(tmp_path, data):
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')
    (data / 'train/000003.jpg').write_bytes(b'')
    (data / 'val/000001.jpg').write_bytes(b'')
    extra = 'log_processor = dict(window_size=1)\ntrain_cfg = dict(max_epochs=2, val_interval=2)\n'
    losses = {}
    for processes, batch_size in ((1, 4), (2, 2)):
        config = write_config(
            tmp_path, extra + f'train_dataloader["batch_size"] = {batch_size}\n', f'{processes}.py'
        )
        work_dir = tmp_path / f'work_{processes}'
        result = run_script(
            ROOT / 'tools/dist_train.sh', config, processes, '--work-dir', work_dir,
            cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr[-3000:]
        losses[processes] = losses_of(work_dir)
        log = log_of(work_dir)
        assert log.count('is replaced by a different one') == 1
        assert '1 of 4 images cannot be read' in log
    assert losses[2] == pytest.approx(losses[1], rel=1e-3)
    # A second unreadable image stops both processes.
    (data / 'train/000007.jpg').write_bytes(b'')
    result = run_script(
        ROOT / 'tools/dist_train.sh', config, 2, '--work-dir', tmp_path / 'work_3',
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode != 0
    assert result.stderr.count('error: 2 of 8 training images cannot be read') == 1


class _Runner:
    """The parts of a runner that the count needs."""

    iter = 0

    def __init__(self):
        self.logger = self
        self.lines = []
        self.message_hub = MessageHub('bad images')

    def warning(self, line):
        self.lines.append(line)


def test_images_of_an_earlier_part_count_unless_repaired(tmp_path):
    before, after = _Runner(), _Runner()
    paths = [str(tmp_path / name) for name in ('gone.jpg', 'repaired.jpg', 'new.jpg')]
    BadImages(1).add(before, [(paths[0], 'x'), (paths[1], 'y')], 300)
    after.message_hub.load_state_dict(before.message_hub.state_dict())
    (tmp_path / 'repaired.jpg').write_bytes(jpeg())
    resumed = BadImages(0)
    with pytest.raises(
        InputError, match=r'2 of 300 training images[\s\S]*gone.jpg: x\n.*new.jpg: z'
    ):
        resumed.add(after, [(paths[2], 'z')], 300)
    assert len(after.lines) == 1 and 'new.jpg' in after.lines[0]


def test_photos_without_labels_are_named_once_and_do_not_count():
    runner, bad = _Runner(), BadImages(0)
    bad.add(runner, [('a', 'x')], 300, [('p', 'y'), ('q', 'y')])
    bad.add(runner, [], 300, [('q', 'y'), ('r', 'z')])
    assert len(bad) == 1
    named = [line.split()[4] for line in runner.lines if 'unlabeled photo' in line]
    assert named == ['p', 'q', 'r'] and len(runner.lines) == 4


def test_the_share_that_is_allowed():
    runner, bad = _Runner(), BadImages(0.01)
    bad.add(runner, [('a', 'x'), ('a', 'x')], 300)
    bad.add(runner, [('a', 'x'), ('b', 'y'), ('c', 'z')], 300)
    assert len(bad) == len(runner.lines) == 3
    with pytest.raises(InputError, match=r'4 of 300 .* more than the 3 that .*=0\.01 allows'):
        bad.add(runner, [('d', 'x')], 300)
    runner, one = _Runner(), BadImages(0)
    one.add(runner, [('a', 'x')], 300)
    with pytest.raises(InputError, match='2 of 300'):
        one.add(runner, [('b', 'x')], 300)
    for share in (-0.1, 1.5):
        with pytest.raises(InputError, match='must be between 0 and 1'):
            BadImages(share)
