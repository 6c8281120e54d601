"""Parameters, gradients and optimizer states divided over the processes (FSDP 2).

Use, as the last of the ``_base_`` of any recipe: ``'_base_/fsdp.py'``. A single process trains as
without it. Averaged weights (``_base_/ema.py``) do not work with it.
"""

model_wrapper_cfg = dict(
    type='FullyShardedModel',
    reduce_dtype='bfloat16',  # of gradients on their way between processes
    reshard_after_forward=True,
)
