"""What the tools print: errors in one sentence, warnings, progress."""

import pytest

from mmdet_dinov2 import cli
from mmdet_dinov2.errors import InputError

RANKS = ('RANK', 'OMPI_COMM_WORLD_RANK', 'SLURM_PROCID')


@pytest.mark.parametrize('variable', RANKS[1:])
def test_every_process_of_slurm_and_mpi_reports_its_error(monkeypatch, capsys, tmp_path, variable):
    for name in (*RANKS, 'TORCHELASTIC_ERROR_FILE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, '3')

    def fail():
        with pytest.raises(SystemExit), cli.one_sentence_errors():
            raise InputError('there is no disk')
        return capsys.readouterr().err

    assert fail() == 'error: (process 3) there is no disk\n'
    # torchrun shows the error of the process that failed first.
    monkeypatch.setenv('TORCHELASTIC_ERROR_FILE', str(tmp_path / 'error.json'))
    assert 'error: ' not in fail()
    assert 'there is no disk' in (tmp_path / 'error.json').read_text()


@pytest.mark.parametrize('terminal', [True, False])
def test_progress_is_shown_on_a_terminal_only(monkeypatch, capfd, terminal):
    monkeypatch.setenv('TTY_COMPATIBLE', str(int(terminal)))
    with cli.progress_bars('images') as start:
        advance = start(2)
        advance()
        advance()
    printed = capfd.readouterr()
    assert printed.out == ''
    assert 'images' in printed.err if terminal else printed.err == ''
