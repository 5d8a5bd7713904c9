"""Settings of the device that training runs on."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pipeline.training.device import avoid_strides_of_one_position, reuse_freed_memory

_PAGE_FAULTS = """
import resource, torch
from pipeline.training.device import reuse_freed_memory
def faults():
    for _ in range(20):
        torch.zeros(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
default = faults()
reuse_freed_memory(torch.device("cpu"))
print(default, faults())
"""


def test_freed_memory_is_not_fetched_from_the_system_again() -> None:
    if not reuse_freed_memory(torch.device("cpu")):
        pytest.skip("this C library's malloc has no such settings")
    counted = subprocess.check_output([sys.executable, "-c", _PAGE_FAULTS]).split()
    default, reusing = map(int, counted)
    # 64 MiB are 16,384 pages of 4 KiB, or 32 of 2 MiB.
    assert default >= 20 * 32
    assert reusing < 100


def test_stride_of_a_single_position_has_no_effect_and_becomes_1() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)
    )
    images = torch.randn(3, 1, 2, 2)
    before = network(images)
    avoid_strides_of_one_position(network, images[:1])
    assert [layer.stride for layer in network] == [(2, 2), (1, 1)]
    torch.testing.assert_close(network(images), before)


def test_memory_of_a_gpu_is_left_to_torch() -> None:
    assert not reuse_freed_memory(torch.device("cuda"))
