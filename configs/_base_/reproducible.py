"""The same bits in every run, at some cost in speed.

Use: add ``'_base_/reproducible.py'`` as the last of the ``_base_`` of a recipe. The same curve on
any number of processes and exact resume need no switch. This one makes PyTorch also add in a fixed
order on GPUs; deformable attention then runs in PyTorch instead of Triton.
"""

reproducible = True
