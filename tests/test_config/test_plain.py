"""Reading the text of configs without running it."""

import math

import pytest
from mmengine.config import Config

from mmdet_dinov2.config.plain import NotPlainError, flatten, read_plain_config


@pytest.mark.parametrize(
    'value',
    [
        [1, -2.5, True, None, 'it\'s "so"\n', (), [], {}],
        (1,),
        {'a b': dict(c=1), 'd': {'e.f': (1, 2)}, 'g': [{'h i': 1}, (dict(j=-1),)]},
        float('inf'),
        {1: 2, '3': 4, -1: 5, (1, 2): 6},
        {1, 'a'},
    ],
)
def test_text_of_mmengine_is_read_exactly(value):
    text = Config(dict(key=value, other=1)).pretty_text
    assert read_plain_config(text) == dict(key=value, other=1)


def test_nan_is_read():
    assert math.isnan(read_plain_config('key = nan')['key'])


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('import os', 'line 1: import os'),
        ('a = 1\nb = __import__("os").system("touch x")', 'line 2: __import__'),
        ('a = open("x")', "open\\('x'\\)"),
        ('a = dict(open("x"))', 'open'),
        ('a = dict(**b)', 'line 1: b'),
        ('a = {**b}', 'b'),
        ('a = [x for x in y]', 'for x in y'),
        ('a = 1 + 1', '1 \\+ 1'),
        ('a = os.path', 'os.path'),
        ('a = f"{b}"', 'f'),
        ('a = -"b"', '-'),
        ('a.b = 1', 'a.b = 1'),
        ('a = b = 1', 'a = b = 1'),
        ('a = {[]}', 'unhashable'),
        ('1 + 1', '1 \\+ 1'),
        ('a = (', 'never closed'),
        ('a = ' + '(' * 500 + ')' * 500, '.*'),
        ('a = "\0"', '.*'),
    ],
)
def test_text_of_other_than_plain_values_is_refused(text, reason):
    with pytest.raises(NotPlainError, match=reason):
        read_plain_config(text)


def test_a_docstring_and_keys_that_are_not_identifiers():
    text = '"A config."\na = dict(b=1, **{"c-d": 2})\ne = dict({"c-d": 2}, b=1)'
    expected = {'b': 1, 'c-d': 2}
    assert read_plain_config(text) == dict(a=expected, e=expected)


def test_flatten():
    cfg = dict(a=1, b=dict(c=(1, 2), d=[dict(e=1), 'f'], g={}))
    assert list(flatten(cfg)) == [
        ('a', 1), ('b.c', (1, 2)), ('b.d.0.e', 1), ('b.d.1', 'f'), ('b.g', {}),
    ]  # fmt: skip
    assert dict(flatten(cfg['b'], 'x'))['x.d.1'] == 'f'
    assert list(flatten({}, 'x')) == [('x', {})]
