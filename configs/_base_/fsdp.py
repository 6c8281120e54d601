"""Parameters, gradients and optimizer states divided over the processes (FSDP 2).

Use: add ``'_base_/fsdp.py'`` as the last of the ``_base_`` of a recipe. With one process it changes
nothing. It does not work together with averaged weights (``_base_/ema.py``).
"""

model_wrapper_cfg = dict(
    type='FullyShardedModel',
    reduce_dtype='bfloat16',  # precision of gradients on their way between processes
    reshard_after_forward=True,
)
