"""Messages of other packages that are hidden."""

import pytest

from mmdet_dinov2.environment import printed_without


def test_lines_are_left_out(capsys):
    with printed_without('needless', 'other'):
        print('one\nneedless words\ntwo')
    assert capsys.readouterr().out == 'one\ntwo\n'


def test_what_was_printed_before_an_error_is_shown(capsys):
    with pytest.raises(RuntimeError), printed_without('needless'):
        print('one')
        raise RuntimeError
    assert capsys.readouterr().out == 'one\n'
