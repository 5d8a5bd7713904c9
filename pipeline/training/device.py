"""Device and precision of training."""

import os
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from limelight.malloc import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, set_malloc_options
from pipeline.errors import PipelineError

# Torch's oneDNN reads this before its first operation. With AMX, gradients of small feature maps in
# bfloat16 are now and then not finite (torch 2.14; tests/pipeline/training/test_activation_stats.py
# fails with `ONEDNN_MAX_CPU_ISA=ALL`), and a training step was not faster.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")


# No activation of a network on a CPU exceeds these.
_LARGEST_TRIM, _LARGEST_BLOCK = 2**31 - 1, 2**30


def choose_device(name: str) -> torch.device:
    """Choose a device: `cpu`, `cuda`, or `auto` for a GPU if there is one.

    Raises:
        PipelineError: `cuda` is requested, and there is no GPU.

    """
    if name not in ("auto", "cpu", "cuda"):
        raise PipelineError(f"device {name!r}: choose auto, cpu or cuda")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise PipelineError("no usable GPU; train with --device cpu, or check the driver")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def reuse_freed_memory(device: torch.device) -> bool:
    """Let malloc keep freed memory for the next training step. Return True on success.

    By default, glibc returns large blocks to the system, and each step of a training on a CPU gets
    them back page by page. With reuse, a step of the cifar10 recipe is 1.29 times as fast (1.12 to
    1.30; two cores of an AMD EPYC with AVX-512), and the peak memory is 1.13 times as high:
    `python -m bench.training_step --memory`. Torch allocates the memory of a GPU itself.
    """
    if device.type != "cpu":
        return False
    return set_malloc_options({M_TRIM_THRESHOLD: _LARGEST_TRIM, M_MMAP_THRESHOLD: _LARGEST_BLOCK})


def uses_bfloat16(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 natively.

    On two cores of an AMD EPYC with AVX-512 BF16, a step of the cifar10 recipe in bfloat16 and
    channels-last is 2.8 times as fast as in plain float32 (2.6 to 2.9, 7 steps), and
    torch.compile makes it slower (2.4): `python -m bench.training_step`. Without such
    instructions bfloat16 is emulated.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def compiles(device: torch.device) -> bool:
    """Tell whether torch.compile makes training faster; see `uses_bfloat16` for the CPU."""
    return device.type == "cuda"


def at_least_float32(values: Tensor) -> Tensor:
    """Convert lower precision to float32, and leave float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision if it is fast: bfloat16 matrix products, float32 everywhere else."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device))
