"""A run that was stopped and resumed equals an undisturbed one."""

import json
import signal
import threading
from types import SimpleNamespace

import pytest
import torch

from mmdet_dinov2.engine.batch import EffectiveBatch, check_resumed_batch
from mmdet_dinov2.engine.hooks import preemption
from mmdet_dinov2.engine.hooks.preemption import STOPPED_EXIT_CODE, PreemptionHook
from mmdet_dinov2.engine.resume.changes import check_epoch_length
from mmdet_dinov2.errors import InputError
from mmdet_dinov2.runs.checkpoints import find_last_checkpoint

from ..recipe_parts import TOGETHER_TEXT
from ..tools import failure_of, run_tool, write_config
from ..unlabeled import unlabeled_text

# Everything that has a state or draws random numbers.
STATEFUL = """
model['backbone']['drop_path_rate'] = 0.3
train_dataloader['dataset'] = dict(dataset, pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoiceResize', scales=[(70, 70), (84, 84)], keep_ratio=True),
    dict(type='PackDetInputs')])
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.01)]
"""
# Mixes samples in the first of two epochs only.
MIXED = (
    TOGETHER_TEXT
    + """
custom_hooks = [
    dict(type='PipelineSwitchHook', switch_epoch=1,
         switch_pipeline=[*single, dict(type='PackDetInputs')])]
"""
)
UNLABELED = STATEFUL + unlabeled_text(labeled=4, times=2, burn_in=0.25)
EPOCHS = """
train_cfg = dict(max_epochs=2, val_interval=2)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6),
    dict(type='MultiStepLR', by_epoch=True, milestones=[1])]
"""
ITERATIONS = """
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=8, val_interval=8)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=100))
"""


def logged(work_dir, name: str, step: str) -> dict[int, float]:
    """Returns a value by step from all logs of a run; a resumed run writes a log of its own."""
    paths = sorted(work_dir.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return {row[step]: row[name] for row in rows if name in row}


def losses_of(work_dir) -> dict[int, float]:
    """Returns the total loss of every step."""
    return logged(work_dir, 'loss', 'iter')


def scores_of(work_dir) -> dict[int, float]:
    """Returns the AP of every evaluation."""
    return logged(work_dir, 'coco/bbox_mAP', 'step')


def states_of(work_dir) -> dict:
    path = find_last_checkpoint(work_dir)
    checkpoint = torch.load(path, weights_only=False)
    kept = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'teacher')
    return {key: checkpoint[key] for key in kept if key in checkpoint}


def assert_same(first, second, where=''):
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f'{where}.{key}')
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f'{where}.{index}')
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def assert_a_stopped_run_goes_on(folder, text):
    """Stops a training at step 4 and resumes it; it has to equal the one in ``undisturbed``.

    Args:
        folder: Folder with that run.
        text: What the config adds to the tiny one; has to import ``tests.stopping_hook``.
    """
    hook = "custom_hooks = [dict(type='SignalAtStep', step=4)]\n"
    work_dir = folder / 'stopped'
    with pytest.raises(SystemExit) as caught:
        run_tool('train', write_config(folder, text + hook, 'stopped.py'), '--work-dir', work_dir)
    assert caught.value.code == STOPPED_EXIT_CODE
    run_tool('train', write_config(folder, text, 'stopped.py'), '--work-dir', work_dir, '--resume')
    assert losses_of(work_dir) == losses_of(folder / 'undisturbed')
    assert_same(states_of(work_dir), states_of(folder / 'undisturbed'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tmp_path_factory.mktemp('data') / 'shapes'


@pytest.mark.parametrize(
    ('loop', 'steps', 'accumulation', 'settings'),
    [(EPOCHS, (2, 4), 1, STATEFUL),
     pytest.param(EPOCHS, (3,), 2, STATEFUL, marks=pytest.mark.slow),
     (ITERATIONS, (5,), 1, STATEFUL),
     pytest.param(EPOCHS, (2, 6), 1, MIXED, marks=pytest.mark.slow),
     (EPOCHS, (5,), 1, UNLABELED)],
    ids=['epochs', 'accumulated', 'iterations', 'parts of a recipe', 'unlabeled photos'],
)  # fmt: skip
def test_stopped_and_resumed_equals_undisturbed(
    tmp_path, data, loop, steps, accumulation, settings
):
    extra = settings + loop + f'optim_wrapper = dict(accumulative_counts={accumulation})\n'
    # Window 1: losses of single steps.
    extra += 'log_processor = dict(window_size=1)\n'
    config = write_config(tmp_path, extra, data=data)
    run_tool('train', config, '--work-dir', tmp_path / 'undisturbed')
    expected = states_of(tmp_path / 'undisturbed')
    expected_losses = losses_of(tmp_path / 'undisturbed')
    assert len(expected_losses) == (4 if accumulation == 2 else 8)
    for step in steps:
        work_dir = tmp_path / f'stopped_{step}'
        stopping = extra.replace(
            'custom_hooks = [',
            f"custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])\n"
            f"custom_hooks = [dict(type='SignalAtStep', step={step}), ",
        )
        stopped = write_config(tmp_path, stopping, name=f'stop_{step}.py', data=data)
        with pytest.raises(SystemExit) as caught:
            run_tool('train', stopped, '--work-dir', work_dir)
        assert caught.value.code == STOPPED_EXIT_CODE
        assert find_last_checkpoint(work_dir) == str(work_dir / 'stopped.pth')
        assert max(losses_of(work_dir)) == step
        run_tool('train', config, '--work-dir', work_dir, '--resume')
        assert losses_of(work_dir) == expected_losses
        assert_same(states_of(work_dir), expected)


@pytest.mark.parametrize(
    ('loop', 'step'),
    [pytest.param(EPOCHS.replace('val_interval=2', 'val_interval=1'), 4, marks=pytest.mark.slow),
     pytest.param(EPOCHS, 8, marks=pytest.mark.slow),
     (ITERATIONS.replace('val_interval=8', 'val_interval=3'), 6)],
    ids=['first', 'last', 'iterations'],
)  # fmt: skip
def test_an_evaluation_that_was_broken_off_is_made_up_for(tmp_path, data, loop, step):
    extra = STATEFUL + loop + 'log_processor = dict(window_size=1)\n'
    extra += 'val_dataloader["batch_size"] = 1\n'
    config = write_config(tmp_path, extra, data=data)
    run_tool('train', config, '--work-dir', tmp_path / 'undisturbed')
    stopping = extra.replace(
        'custom_hooks = [',
        "custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])\n"
        f"custom_hooks = [dict(type='SignalInEvaluation', step={step}), ",
    )
    stopped = write_config(tmp_path, stopping, name='stop.py', data=data)
    work = tmp_path / 'work'
    with pytest.raises(SystemExit) as caught:
        run_tool('train', stopped, '--work-dir', work)
    assert caught.value.code == STOPPED_EXIT_CODE
    assert find_last_checkpoint(work) == str(work / 'stopped.pth')
    run_tool('train', config, '--work-dir', work, '--resume')
    assert losses_of(work) == losses_of(tmp_path / 'undisturbed')
    assert scores_of(work) == scores_of(tmp_path / 'undisturbed')
    assert_same(states_of(work), states_of(tmp_path / 'undisturbed'))


def test_epochs_of_a_different_length_are_refused(tmp_path, data, capfd):
    config = write_config(tmp_path, EPOCHS, data=data)
    run_tool('train', config, '--work-dir', tmp_path / 'work')
    run_tool(
        'train', config, '--work-dir', tmp_path / 'work', '--resume', tmp_path / 'work/epoch_1.pth'
    )
    for images, length in ((6, 3), (2, 1)):
        error = failure_of(
            capfd, 'train', config, '--work-dir', tmp_path / 'work', '--resume',
            tmp_path / 'work/epoch_1.pth',
            '--cfg-options', f'train_dataloader.dataset.indices={images}',
        )  # fmt: skip
        assert f'was trained with 4 steps an epoch, an epoch of this run has {length}' in error
    check_epoch_length(dict(epoch=2, iter=9), 4, 'mmengine.pth')
    for length in (2, 5):
        with pytest.raises(InputError, match=f'9 steps in 2 epochs, an .* this run has {length}'):
            check_epoch_length(dict(epoch=2, iter=9), length, 'mmengine.pth')


def test_a_resumed_run_goes_on_in_the_order_of_its_seed(tmp_path, data):
    """The seed of its config does not matter."""
    extra = EPOCHS + 'log_processor = dict(window_size=1)\n'
    config = write_config(tmp_path, extra, data=data)
    run_tool('train', config, '--work-dir', tmp_path / 'undisturbed')
    stopped = write_config(tmp_path, extra + INTERRUPTED_AT_2, name='stop.py', data=data)
    with pytest.raises(SystemExit):
        run_tool('train', stopped, '--work-dir', tmp_path / 'work')
    run_tool(
        'train', config, '--work-dir', tmp_path / 'work', '--resume',
        '--cfg-options', 'randomness.seed=7',
    )  # fmt: skip
    assert losses_of(tmp_path / 'work') == losses_of(tmp_path / 'undisturbed')


INTERRUPTED_AT_2 = """
custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])
custom_hooks = [dict(type='SignalAtStep', step=2)]
"""
INTERRUPTED = """
custom_imports = dict(imports=['mmdet_dinov2', 'tests.stopping_hook'])
train_cfg = dict(max_epochs=1)
custom_hooks = [dict(type='SignalAtStep', step=2, name='SIGINT'){more}]
"""


def test_ctrl_c_saves_the_state(tmp_path, data, capfd):
    config = write_config(tmp_path, INTERRUPTED.format(more=''), data=data)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as caught:
        run_tool('train', config, '--work-dir', tmp_path / 'work')
    assert caught.value.code == STOPPED_EXIT_CODE
    assert find_last_checkpoint(tmp_path / 'work') == str(tmp_path / 'work/stopped.pth')
    assert 'Stopping after this step; Ctrl-C again stops at once' in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once(tmp_path, data):
    more = ", dict(type='SignalAtStep', step=2, name='SIGINT')"
    config = write_config(tmp_path, INTERRUPTED.format(more=more), data=data)
    names = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = {name: signal.getsignal(name) for name in names}
    try:
        with pytest.raises(KeyboardInterrupt):
            run_tool('train', config, '--work-dir', tmp_path / 'work')
        assert {name: signal.getsignal(name) for name in names} == before
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
    assert not (tmp_path / 'work/stopped.pth').exists()


def test_resuming_without_a_checkpoint_starts_from_scratch(tmp_path, data, capfd):
    config = write_config(tmp_path, 'train_cfg = dict(max_epochs=1)\n', data=data)
    run_tool('train', config, '--work-dir', tmp_path / 'new', '--resume')
    assert 'has no checkpoint to resume from' in capfd.readouterr().out
    assert find_last_checkpoint(tmp_path / 'new') == str(tmp_path / 'new' / 'epoch_1.pth')
    # A folder that was moved still knows its last checkpoint.
    (tmp_path / 'new').rename(tmp_path / 'moved')
    assert find_last_checkpoint(tmp_path / 'moved') == str(tmp_path / 'moved' / 'epoch_1.pth')
    message = failure_of(
        capfd,
        'train',
        config,
        '--work-dir',
        tmp_path / 'moved',
        '--resume',
        '--cfg-options',
        'train_dataloader.batch_size=4',
    )
    assert '= 2 images a step, but this run has' in message and '= 4 images a step' in message


def test_the_same_total_may_be_divided_differently():
    meta = dict(batch=dict(world_size=4, batch_size=2, accumulation=1))
    check_resumed_batch(meta, EffectiveBatch(1, 2, 4), 'x.pth')
    check_resumed_batch({}, EffectiveBatch(1, 2, 3), 'x.pth')
    with pytest.raises(InputError, match=r'x.pth was trained with 4 processes .* = 8 images'):
        check_resumed_batch(meta, EffectiveBatch(4, 2, 2), 'x.pth')


def test_a_job_without_the_commands_of_slurm_is_not_requeued(monkeypatch):
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    monkeypatch.setenv('PATH', '')
    assert not preemption._requeue()


def test_unknown_signals_are_refused():
    with pytest.raises(ValueError, match="\\['SIGNOTHING'\\] do not exist"):
        PreemptionHook(['SIGTERM', 'SIGNOTHING'])


def test_a_training_outside_of_the_main_thread_listens_to_no_signal():
    said = []
    runner = SimpleNamespace(logger=SimpleNamespace(info=said.append))
    hook = PreemptionHook()
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=hook.before_train, args=(runner,))
    thread.start()
    thread.join()
    hook.stop_listening()
    assert signal.getsignal(signal.SIGTERM) is before
    assert said == ['The training is not in the main thread: no signal stops it']
