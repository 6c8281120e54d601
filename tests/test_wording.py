"""How messages name things."""

import os

from mmdet_dinov2.wording import printable


def test_bytes_that_are_no_text_are_written_out():
    name = os.fsdecode('höhe '.encode() + b'caf\xe9')
    assert printable(name) == 'höhe caf\\xe9'
    assert printable('\ud800 of a JSON file') == '\\ud800 of a JSON file'
