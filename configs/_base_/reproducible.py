"""The same bits in every run, at some cost in speed.

Use, as the last of the ``_base_`` of any recipe: ``'_base_/reproducible.py'``. The same curve on
any number of processes and exact resume need no switch; this one makes PyTorch add in a fixed order
on GPUs too (deformable attention then runs in PyTorch).
"""

reproducible = True
