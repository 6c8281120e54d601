"""The command ``mmdet_dinov2`` and its commands."""

import argparse
import importlib
import logging

import pytest

from mmdet_dinov2.benchmark.suites import SUITES
from mmdet_dinov2.checkpoint.reading import trusts_checkpoints
from mmdet_dinov2.cli import COMMANDS, run
from mmdet_dinov2.version import __version__


def test_an_overview_names_every_command(capsys):
    run([])
    text = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert f'{name:11}{summary}' in text


def test_the_version(capsys):
    run(['--version'])
    assert capsys.readouterr().out == f'mmdet_dinov2 {__version__}\n'


@pytest.mark.parametrize('name', sorted(set(COMMANDS) - {'env'}))
def test_every_command_explains_its_arguments(name, capsys, monkeypatch):
    monkeypatch.setattr('sys.argv', ['/usr/bin/mmdet_dinov2', name, '--help'])
    with pytest.raises(SystemExit) as end:
        run([name, '--help'])
    assert end.value.code == 0
    assert f'usage: mmdet_dinov2 {name}' in capsys.readouterr().out
    importlib.import_module(f'mmdet_dinov2.cli.commands.{name}')


READ_CHECKPOINTS = (
    'train test predict report features benchmark convert publish export replay select'
)


@pytest.mark.parametrize('name', READ_CHECKPOINTS.split())
def test_checkpoints_can_be_trusted_wherever_they_are_read(name, monkeypatch):
    # Restored afterwards.
    monkeypatch.setenv('MMDET_DINOV2_TRUST_CHECKPOINT', '')
    command = importlib.import_module(f'mmdet_dinov2.cli.commands.{name}')
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    action = parser._option_string_actions['--trust-checkpoint']
    assert not trusts_checkpoints()
    action(parser, argparse.Namespace(), [])
    assert trusts_checkpoints()


def test_a_misspelled_command_is_one_sentence():
    with pytest.raises(SystemExit, match="no command 'trian', only train, .*; did you mean train"):
        run(['trian'])


def test_the_command_line_of_a_benchmark_is_in_its_table(tmp_path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['mmdet_dinov2'])
    hidden = []
    monkeypatch.setitem(
        SUITES, 'matching', lambda *_: hidden.append(logging.getLogger().manager.disable)
    )
    run(['benchmark', '--suite', 'matching', '--dry-run', '--work-dir', str(tmp_path)])
    (table,) = tmp_path.glob('*.md')
    command = f'mmdet_dinov2 benchmark --suite matching --dry-run --work-dir {tmp_path}'
    assert command in table.read_text()
    # Messages are hidden while it runs only.
    assert hidden == [logging.INFO] and logging.getLogger().manager.disable == logging.NOTSET


def test_configs_are_listed(capsys, root):
    run(['configs'])
    assert 'dino_dinov2_s_ft\n' in capsys.readouterr().out
