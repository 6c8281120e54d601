"""How the threads of PyTorch wait for each other."""

from __future__ import annotations

import os

_SPIN_COUNT = 1000


def limit_spinning() -> None:
    """Lets threads that wait give their core away soon.

    PyTorch's threads wait for each other at the end of each parallel operation, and libgomp lets
    them spin for a long time. Where another program keeps a core busy, they then keep the thread
    they wait for from running: a step takes ten times as long. With a short spin it costs 2 % on
    an idle machine. ``mmdet_dinov2 benchmark --suite threads`` measures both.

    libgomp reads the setting when it is loaded, so this has to run before torch is imported. What
    the user has set stays.
    """
    if 'OMP_WAIT_POLICY' not in os.environ:
        os.environ.setdefault('GOMP_SPINCOUNT', str(_SPIN_COUNT))
