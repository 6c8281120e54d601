"""What the names of files and folders say about the split that they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable

SPLITS = ('train', 'val', 'test')
# 'test' comes first, since 'test-dev' is a test set.
_WORDS = {
    'test': ('test', 'testing', 'tst'),
    'train': ('train', 'training', 'trn', 'trainval'),
    'val': (
        'val', 'valid', 'validation', 'validate', 'dev', 'development', 'eval', 'evaluation',
        'minival',
    ),
}  # fmt: skip
_ENDINGS = re.compile('(set|data|split|images|imgs)$')


def split_of(name: str) -> str | None:
    """Returns the split that a word of a file or folder name says, as in 'train2017' or 'ValSet'.

    'trainval' is training data: it is what a dataset publishes besides its test set.
    """
    words = set(_words(name))
    if {'train', 'val'} <= words:  # 'train_val'
        return 'train'
    return next((s for s, known in _WORDS.items() if words.intersection(known)), None)


def is_trainval(name: str) -> bool:
    """Returns whether a name says that training and validation data are together."""
    words = set(_words(name))
    return 'trainval' in words or {'train', 'val'} <= words


def split_of_folders(names: Iterable[str]) -> str | None:
    """Returns the split that the innermost of some folders says, of those that say one."""
    return next(filter(None, map(split_of, reversed(tuple(names)))), None)


def _words(name: str) -> list[str]:
    words = re.findall('[A-Z]+(?![a-z])|[A-Z]?[a-z]+', name)
    return [_ENDINGS.sub('', word.lower()) or word.lower() for word in words]
