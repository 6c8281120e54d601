"""Compiles the Triton kernels for a GPU and prints their memory instructions.

Run it as a program, with the compute capability (90 for H100 and H200): a process with Triton's
interpreter switched on cannot compile.
"""

import collections
import json
import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mmdet_dinov2.layers import deformable_attention_triton

INPUTS = 'value shapes starts images locations weights'
POINTERS = {
    '_forward_kernel': f'{INPUTS} output',
    '_backward_kernel': f'grad {INPUTS} grad_value grad_locations grad_weights',
}
CONSTANTS = dict(HEADS=8, LEVELS=4, POINTS=4, DIM=32, BLOCK_QUERIES=32, BLOCK_DIM=32)


def pointer_type(name: str) -> str:
    """Returns the type of an argument for bf16 values."""
    if name in ('shapes', 'starts', 'images'):
        return '*i64'
    return '*bf16' if name in ('value', 'output', 'grad') else '*fp32'


def instructions(kernel: str, capability: int) -> dict[str, int]:
    """Counts the instructions on global memory."""
    names = POINTERS[kernel].split()
    signature = {f'{name}_ptr': pointer_type(name) for name in names}
    signature |= dict(num_queries='i32', num_values='i32') | dict.fromkeys(CONSTANTS, 'constexpr')
    source = ASTSource(
        getattr(deformable_attention_triton, kernel),
        signature,
        constexprs=CONSTANTS,
        attrs={(i,): [['tt.divisibility', 16]] for i in range(len(names))},
    )
    compiled = triton.compile(source, target=GPUTarget('cuda', capability, 32))
    assert compiled.asm['cubin']
    found = re.findall(r'\b(?:ld|st|red|atom)\.global[\w.]*', compiled.asm['ptx'])
    return collections.Counter(found)


print(json.dumps([instructions(kernel, int(sys.argv[1])) for kernel in POINTERS]))
