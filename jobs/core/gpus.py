"""Peak arithmetic rates and memory of common GPUs, and the names that users and Slurm have for them.

Rates are dense matrix products from vendor datasheets; where a datasheet prints the rate with structured
sparsity (twice the dense one, as NVIDIA's have since Hopper), the table has half of it. One GPU is what Slurm
and torch count as one. `sor plan` and training import this module, so it has no heavy imports.
"""

from __future__ import annotations

import re
from functools import cache

DTYPES = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32",
    "float8": "fp8", "float8_e4m3fn": "fp8", "float8_e5m2": "fp8",
}  # fmt: skip
# TFLOP/s by dtype ("fp32" without tensor cores, "tf32" with them); unsupported dtypes are absent.
PEAKS: dict[str, dict[str, float]] = {
    # NVIDIA T4 datasheet
    "t4": {"fp16": 65, "fp32": 8.1},
    # NVIDIA V100 datasheet (SXM2)
    "v100": {"fp16": 125, "fp32": 15.7},
    # NVIDIA A10, A30 and A40 datasheets
    "a10": {"bf16": 125, "fp16": 125, "tf32": 62.5, "fp32": 31.2},
    "a30": {"bf16": 165, "fp16": 165, "tf32": 82, "fp32": 10.3},
    "a40": {"bf16": 149.7, "fp16": 149.7, "tf32": 74.8, "fp32": 37.4},
    # NVIDIA RTX A6000 datasheet (309.7 with sparsity)
    "a6000": {"bf16": 154.8, "fp16": 154.8, "tf32": 77.4, "fp32": 38.7},
    # NVIDIA A100 Tensor Core GPU datasheet (the same rates for SXM and PCIe)
    "a100": {"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5},
    # NVIDIA Ampere GA102 and Ada architecture whitepapers, products accumulated in fp32
    "3090": {"bf16": 71, "fp16": 71, "tf32": 35.6, "fp32": 35.6},
    "4090": {"bf16": 165.2, "fp16": 165.2, "tf32": 82.6, "fp32": 82.6, "fp8": 330.3},
    # NVIDIA L4 and L40S datasheets (printed with sparsity)
    "l4": {"bf16": 121, "fp16": 121, "tf32": 60, "fp32": 30.3, "fp8": 242.5},
    "l40s": {"bf16": 362, "fp16": 362, "tf32": 183, "fp32": 91.6, "fp8": 733},
    # NVIDIA H100 Tensor Core GPU architecture whitepaper (SXM5 and PCIe)
    "h100": {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9, "fp8": 1978.9},
    "h100-pcie": {"bf16": 756, "fp16": 756, "tf32": 378, "fp32": 51.2, "fp8": 1513},
    # NVIDIA H100 NVL datasheet (printed with sparsity)
    "h100-nvl": {"bf16": 835.5, "fp16": 835.5, "tf32": 417.5, "fp32": 60, "fp8": 1670.5},
    # NVIDIA H200 datasheet (SXM) and GH200 Grace Hopper datasheet: the H100's rates, more memory
    "h200": {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9, "fp8": 1978.9},
    "gh200": {"bf16": 989.4, "fp16": 989.4, "tf32": 494.7, "fp32": 66.9, "fp8": 1978.9},
    # NVIDIA HGX B200 and GB200 NVL72 datasheets, divided by 8 and 72 GPUs (printed with sparsity)
    "b200": {"bf16": 2250, "fp16": 2250, "tf32": 1125, "fp32": 75, "fp8": 4500},
    "gb200": {"bf16": 2500, "fp16": 2500, "tf32": 1250, "fp32": 80, "fp8": 5000},
    # AMD Instinct MI210 datasheet, and MI250X datasheet divided by its two dies, each of which is one GPU
    # to Slurm and torch; fp32 is the matrix rate
    "mi210": {"bf16": 181, "fp16": 181, "fp32": 45.3},
    "mi250": {"bf16": 181, "fp16": 181, "fp32": 45.3},
    "mi250x": {"bf16": 191.5, "fp16": 191.5, "fp32": 47.9},
    # AMD Instinct MI300X and MI325X datasheets; fp32 is the matrix rate
    "mi300x": {"bf16": 1307.4, "fp16": 1307.4, "tf32": 653.7, "fp32": 163.4, "fp8": 2614.9},
    "mi325x": {"bf16": 1307.4, "fp16": 1307.4, "tf32": 653.7, "fp32": 163.4, "fp8": 2614.9},
}
# Memory in GiB of each variant, the smallest first, as nvidia-smi and rocm-smi show it: what datasheets call
# GB, but for the share of GDDR6 that ECC takes on T4, A10, A40, L4 and L40S.
MEMORY: dict[str, tuple[float, ...]] = {
    "t4": (15,), "v100": (16, 32), "a10": (22.5,), "a30": (24,), "a40": (45,), "a6000": (48,),
    "a100": (40, 80),
    "3090": (24,), "4090": (24,), "l4": (22.5,), "l40s": (45,), "h100": (80,), "h100-pcie": (80,),
    "h100-nvl": (94,), "h200": (140,), "gh200": (96, 144), "b200": (180,), "gb200": (186,), "mi210": (64,),
    "mi250": (64,), "mi250x": (64,), "mi300x": (192,), "mi325x": (256,),
}  # fmt: skip


@cache
def gpu(name: str) -> str:
    """Return the row of PEAKS for a name: "h100", Slurm's "gpu:h100:4", torch's "NVIDIA A100-SXM4-80GB" …

    All words of the row must occur in the name; the row with the most words wins.

    Raises:
        ValueError: No row matches, or the name is that of a GPU slice (MIG).
    """
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    known = f"known are {', '.join(PEAKS)}"
    if any(re.fullmatch(r"\dg", word) for word in words):
        raise ValueError(f"{name!r} is a slice of a GPU, for which datasheets state no rates; {known}")
    fits = [row for row in PEAKS if words.issuperset(row.split("-"))]
    if not fits:
        raise ValueError(f"the GPU {name!r} is not in the table; {known}")
    return max(fits, key=lambda row: row.count("-"))


def peak_flops(name: str, dtype: str = "bf16") -> float:
    """Return the peak dense FLOP/s of one GPU.

    Args:
        name: See `gpu`.
        dtype: bf16, fp16, tf32, fp32 or fp8, or torch's name for one of them.

    Raises:
        ValueError: The GPU is unknown, or has no rate for the dtype.
    """
    row, key = gpu(name), DTYPES.get(dtype, dtype)
    if key not in PEAKS[row]:
        raise ValueError(f"{row} has no peak rate for {dtype!r}; it has {', '.join(PEAKS[row])}")
    return PEAKS[row][key] * 1e12


def gpu_memory(name: str) -> tuple[float, bool]:
    """Return the memory of one GPU in GiB, and whether that is certain.

    A size in the name ("a100-80gb", "NVIDIA A100-SXM-64GB", "v100_32") decides between variants, but for the
    GH200, whose names say how much its CPU has ("NVIDIA GH200 120GB"). Where several variants fit a name, the
    smallest is returned: a training that is too large would fail, one that is too small is only slower.

    Raises:
        ValueError: The GPU is unknown.
    """
    row = gpu(name)
    variants = MEMORY[row]
    words = (re.fullmatch(r"(\d+)(gb?)?", word) for word in re.findall(r"[a-z0-9]+", name.lower()))
    sizes = [(float(word[1]), word[2] is not None and row != "gh200") for word in words if word]
    said = [size for size, in_gb in sizes if in_gb or size in variants]
    return (min(said[0], variants[-1]), True) if said else (variants[0], len(variants) == 1)
