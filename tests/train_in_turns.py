"""Trains configs in turn in the processes of one launcher, which saves starting them for each.

Arguments: those of ``mmdet_dinov2 train``, with ``--`` between the trainings.
"""

import sys
from itertools import groupby

from mmdet_dinov2.cli.commands import train

from .tools import run_command

if __name__ == '__main__':
    # Else the first training ends the process.
    train.work_and_exit = lambda work, launcher: work()
    for separator, arguments in groupby(sys.argv[1:], '--'.__eq__):
        if not separator:
            run_command('train', *arguments, '--launcher', 'pytorch')
