"""The table of faults names tests that exist."""

import re

import pytest

ID = re.compile(r'`((?:\w+/)*test_\w+\.py)::(test_\w+)(?:\[([^\]`]+)\])?`')


@pytest.fixture(scope='module')
def rows(root):
    """Rows of the tables of docs/reliability.md that name tests."""
    lines = (root / 'docs/reliability.md').read_text().splitlines()
    tables = [line for line in lines if line.startswith('|')]
    return [line for line in tables if not line.startswith(('|---', '| fault '))]


def test_each_fault_stands_once_and_names_a_test(rows):
    faults = [row.split('|')[1].strip() for row in rows]
    assert faults and len(set(faults)) == len(faults)
    named = False
    for row in rows:
        assert row.count('|') == 4, row
        # "the same test" is that of the row before.
        assert ID.search(row) or (named and 'the same test' in row), f'no test is named: {row}'
        named = True


def test_every_test_of_the_table_exists(rows, root):
    named = [found for row in rows for found in ID.findall(row)]
    # Nothing that looks like a test is left out by the pattern.
    assert sum(row.count('::') for row in rows) == len(named)
    for file, function, case in named:
        text = (root / 'tests' / file).read_text()
        assert re.search(rf'^def {function}\(', text, re.MULTILINE), f'{file}::{function}'
        names = {case, case.replace('_', ' ')}
        assert not case or any(f"'{name}'" in text for name in names), f'{function}[{case}]'
