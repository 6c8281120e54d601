"""What a run shows on the console."""

import io
import logging
from pathlib import Path
from types import SimpleNamespace

import mmengine
import pytest
from rich.console import Console

import mmdet_dinov2
from mmdet_dinov2.engine.log import LiveBarHook, ReadableLoggerHook
from mmdet_dinov2.engine.log.console import ConsoleFilter, limit_console
from mmdet_dinov2.engine.log.processor import summarize_losses


def test_terms_of_each_kind_are_summed():
    items = {
        'grad_norm': 7.0,
        'loss': 100.0,
        'loss_cls': 1.0,
        'd0.loss_cls': 2.0,
        'enc_loss_cls': 4.0,
        'loss_bbox': 8.0,
        'd11.loss_iou': 16.0,
        'dn_loss_cls': 32.0,
        'd0.dn_loss_iou': 64.0,
        'accuracy': 0.5,
    }
    assert list(summarize_losses(items).items()) == [
        ('loss', 100.0),
        ('loss_cls', 7.0),
        ('loss_bbox', 8.0),
        ('loss_iou', 16.0),
        ('loss_dn', 96.0),
        ('grad_norm', 7.0),
        ('accuracy', 0.5),
    ]


def test_losses_of_other_detectors_stay():
    assert summarize_losses({'loss': 1.0, 'loss_rpn_obj': 2.0}) == {
        'loss': 1.0,
        'loss_rpn_obj': 2.0,
    }


MMENGINE, OURS = (Path(package.__file__).parent for package in (mmengine, mmdet_dinov2))


@pytest.mark.parametrize(
    ('path', 'level', 'text', 'shown'),
    [
        (MMENGINE / 'runner/runner.py', logging.INFO, 'System environment:', False),
        (MMENGINE / 'runner/runner.py', logging.WARNING, 'something is wrong', True),
        (MMENGINE / 'fileio/x.py', logging.WARNING, '"A" will be deprecated in future.', False),
        (MMENGINE / 'hooks/logger_hook.py', logging.INFO, 'Epoch(train) [1][2/3]  eta: 0', True),
        (MMENGINE / 'hooks/logger_hook.py', logging.INFO, 'Exp name: x_2026', False),
        (OURS / 'engine/runner.py', logging.INFO, 'Effective batch: 1', True),
    ],
)
def test_the_console_shows_what_matters(path, level, text, shown):
    record = logging.LogRecord('mmengine', level, str(path), 1, text, (), None)
    assert ConsoleFilter().filter(record) == shown


@pytest.mark.parametrize(
    ('seconds', 'batches'),
    [(0.1, []), (1.0, [60, 120, 180, 240]), (20.0, [25, 50, 75, 100, 125, 150, 175, 200, 225])],
)
@pytest.mark.parametrize('mode', ['val', 'test'])
def test_an_evaluation_has_few_lines(monkeypatch, mode, seconds, batches):
    clock, lines = [0.0], []
    monkeypatch.setattr('time.monotonic', lambda: clock[0])
    runner = SimpleNamespace(
        val_dataloader=range(250),
        test_dataloader=range(250),
        log_processor=SimpleNamespace(
            get_log_after_iter=lambda runner, batch_idx, mode: ({}, (mode, batch_idx + 1))
        ),
        logger=SimpleNamespace(info=lines.append),
    )
    hook = ReadableLoggerHook(interval=50)
    for _ in range(2):  # each evaluation begins anew
        lines.clear()
        getattr(hook, f'before_{mode}_epoch')(runner)
        for batch_idx in range(250):
            clock[0] += seconds
            getattr(hook, f'after_{mode}_iter')(runner, batch_idx)
        assert lines == [(mode, batch) for batch in batches]


def run_with_bar(console, stream):
    """Calls the hook as a training of two epochs with an evaluation does; logs in between."""
    logger = logging.Logger('run')
    logger.addHandler(logging.StreamHandler(stream))
    limit_console(logger)
    runner = SimpleNamespace(
        logger=logger, iter=0, epoch=0, max_iters=4, max_epochs=2, train_loop=None,
        val_dataloader=[0, 1, 2],
    )  # fmt: skip
    hook = LiveBarHook(console)
    hook.before_train(runner)
    for step in range(4):
        runner.iter = step
        hook.after_train_iter(runner, step, outputs=dict(loss=8.0 - step))
        hook._progress.refresh()
        if step == 1:
            hook.before_val_epoch(runner)
            hook.after_val_iter(runner, 1)
            hook._progress.refresh()
            hook.after_val_epoch(runner, {'coco/bbox_mAP': 0.4321})
            logger.warning('a line above the bar')
    (handler,) = logger.handlers
    assert handler.filters[0].bar
    hook.after_train(runner)
    assert handler.stream is stream and not handler.filters[0].bar


def test_the_live_bar_shows_steps_loss_and_scores():
    drawn, stream = io.StringIO(), io.StringIO()
    run_with_bar(Console(file=drawn, force_terminal=True, width=120), stream)
    text = drawn.getvalue()
    for part in ('4/4', 'loss 8.00', 'loss 5.00', 'AP 0.432', 'MiB', 'evaluation', '2/3'):
        assert part in text, part
    assert 'a line above the bar' in text and stream.getvalue() == ''


def test_the_live_bar_is_drawn_where_the_console_of_rich_was_made_too_early(monkeypatch):
    """An import of the package redirects the output, and a console keeps what it sees first."""
    monkeypatch.setenv('TTY_COMPATIBLE', '0')
    monkeypatch.setattr('rich._console', Console())
    monkeypatch.setenv('TTY_COMPATIBLE', '1')
    monkeypatch.setenv('TERM', 'xterm')
    drawn = io.StringIO()
    monkeypatch.setattr('sys.stdout', drawn)
    run_with_bar(None, io.StringIO())
    assert 'loss 5.00' in drawn.getvalue()
