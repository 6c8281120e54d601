"""Trains configs in turn in the processes of one launcher, which saves starting them for each.

Arguments: those of ``mmdet_dinov2 train``, with ``--`` between the trainings.
"""

import sys
from itertools import groupby

from mmdet_dinov2.cli.commands import train

from .tools import run_command

if __name__ == '__main__':
    trainings = [
        list(arguments)
        for separator, arguments in groupby(sys.argv[1:], '--'.__eq__)
        if not separator
    ]
    work_and_exit = train.work_and_exit
    for arguments in trainings:
        # Only the last training ends the process.
        last = arguments is trainings[-1]
        train.work_and_exit = work_and_exit if last else lambda work, launcher: work()
        run_command('train', *arguments, '--launcher', 'pytorch')
