"""Names of classes in any alphabet."""

import io
import logging

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from mmdet_dinov2.drawing import fonts
from mmdet_dinov2.drawing.box_pictures import draw_boxes


@pytest.fixture
def said(monkeypatch):
    """The warnings, in a system without other fonts."""
    texts = []
    monkeypatch.setattr(fonts, 'print_log', lambda text, logger, level: texts.append((text, level)))
    monkeypatch.setattr(fonts, '_missing_said', set())
    monkeypatch.setattr(fonts, '_installed', lambda: ())
    fonts._font_of.cache_clear()
    yield texts
    fonts._font_of.cache_clear()


@pytest.fixture
def font(tmp_path):
    """A font with a letter of its own, a filled square, for the character 人."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(['.notdef', 'person'])
    builder.setupCharacterMap({ord('人'): 'person'})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(point)
    pen.closePath()
    builder.setupGlyf({'.notdef': TTGlyphPen(None).glyph(), 'person': pen.glyph()})
    builder.setupHorizontalMetrics({'.notdef': (900, 0), 'person': (900, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable(dict(familyName='Person', styleName='Regular'))
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / 'person.ttf')
    return str(tmp_path / 'person.ttf')


def drawn(text, size=40):
    """Returns where a text is dark, at least half."""
    picture = Image.new('L', (200, 60), 255)
    fonts.TextFont(text, size).draw(ImageDraw.Draw(picture), 5, 30, 0)
    return np.asarray(picture) < 128


def test_an_installed_font_that_has_the_character_is_taken(said, font, monkeypatch):
    monkeypatch.setattr(fonts, '_installed', lambda: ('/no/such/font.ttf', font))
    square = drawn('人')
    rows, columns = np.nonzero(square)
    assert square.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert 28 <= np.ptp(rows) <= 34 and 28 <= np.ptp(columns) <= 34
    # Beside letters of the usual font, in one line.
    both = drawn('l人')
    np.testing.assert_array_equal(both[:, :12], drawn('l')[:, :12])
    assert both.sum() == pytest.approx(square.sum() + drawn('l').sum(), rel=0.05)
    text = fonts.TextFont('l人', 40)
    assert text.length == fonts.TextFont('l', 40).length + fonts.TextFont('人', 40).length
    assert said == []


def test_one_warning_for_characters_that_no_font_has(said):
    boxes = np.array([[5.0, 30.0, 60.0, 60.0]] * 2)
    for _ in range(2):
        draw_boxes(np.zeros((90, 160, 3), np.uint8), boxes, [0, 1], ['人', '行人 90'])
    ((text, level),) = said
    assert level == logging.WARNING and "'人行'" in text and 'fonts-noto-cjk' in text
    fonts.warn_of_missing(['größer', '\u200d\ufe0f', ' \n'])
    assert len(said) == 1


def test_figures_use_the_same_fonts(said, font, monkeypatch, recwarn):
    def picture(text):
        with fonts.fonts_for([text]):
            figure = Figure(figsize=(2, 1))
            figure.text(0.1, 0.4, text, fontsize=30)
            file = io.BytesIO()
            figure.savefig(file, dpi=50)
        return np.asarray(Image.open(file).convert('L'))

    missing = picture('人')
    assert len(said) == 1 and not recwarn.list
    monkeypatch.setattr(fonts, '_installed', lambda: (font,))
    fonts._font_of.cache_clear()
    square = picture('人')
    assert (square < 128).sum() > 1.5 * (missing < 128).sum()
    assert picture('a $ b $ 100% {x}').min() < 128  # no mathematics
    assert not recwarn.list


def test_all_installed_fonts_can_be_asked():
    installed = fonts._installed()
    assert any('DejaVuSans.ttf' in path for path in installed)
    styled = [('bold' in path.rpartition('/')[2].lower()) for path in installed]
    assert not styled[0]
    assert fonts._characters('/no/such/font.ttf') == frozenset()


def test_names_with_line_breaks_and_control_characters_are_one_line():
    names = [f'a{chr(code)}b' for code in (*range(32), *range(127, 160), 0x2028, 0x2029)]
    draw = ImageDraw.Draw(Image.new('RGB', (60, 20)))
    for name in names:
        font = fonts.TextFont(name, 12)
        assert font.length == fonts.TextFont('a b', 12).length
        font.draw(draw, 0, 10, 'white')
