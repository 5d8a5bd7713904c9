"""Device and precision of training."""

import os
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

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


@torch.no_grad()
def avoid_strides_of_one_position(network: nn.Module, images_nchw: Tensor) -> None:
    """Set the stride of convolutions to 1 where their input has a single position: the same result.

    With a longer stride, oneDNN's gradient of the weights in bfloat16 has random values, also
    infinities and NaN, in the weights that only see padding (torch 2.14).
    """

    def probe(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        if inputs[0].shape[2:] == output.shape[2:] == (1, 1):
            layer.stride = (1, 1)

    strided = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d) and layer.stride != (1, 1)
    ]
    hooks = [layer.register_forward_hook(probe) for layer in strided]
    training = network.training
    network.eval()(images_nchw)
    network.train(training)
    for hook in hooks:
        hook.remove()


def compiles(device: torch.device) -> bool:
    """Tell whether torch.compile makes training faster; see `uses_bfloat16` for the CPU."""
    return device.type == "cuda"


def at_least_float32(values: Tensor) -> Tensor:
    """Convert lower precision to float32, and leave float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision if it is fast: bfloat16 matrix products, float32 everywhere else."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bfloat16(device))
