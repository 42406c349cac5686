"""How fast known GPUs compute, for estimates. No torch.

Peaks are those of the makers' data sheets, dense, in 10^12 operations/s: of bf16 (fp16 before
Ampere), of TF32 and of fp32. The shares of the peak that training and scoring reach are assumed:
no figure of this project is from a GPU yet (`python benchmarks/gpu.py` measures them). Small models
reach less, because they keep a GPU waiting for the next kernel.
"""

from __future__ import annotations

from typing import NamedTuple


class Peak(NamedTuple):
    bf16: float
    tf32: float
    fp32: float
    sheet: str  # the data sheet


PEAKS = {  # by Ray's accelerator_type
    "T4": Peak(65, 8.1, 8.1, "NVIDIA T4 data sheet; bf16 as fp16"),
    "V100": Peak(125, 15.7, 15.7, "NVIDIA V100 SXM2 data sheet; bf16 as fp16"),
    "A10G": Peak(70, 35, 31.5, "NVIDIA A10G data sheet"),
    "L4": Peak(121, 60, 30.3, "NVIDIA L4 data sheet"),
    "L40S": Peak(362, 183, 91.6, "NVIDIA L40S data sheet"),
    "A100": Peak(312, 156, 19.5, "NVIDIA A100 data sheet"),
    "H100": Peak(989, 494, 67, "NVIDIA H100 SXM data sheet"),
    "H200": Peak(989, 494, 67, "NVIDIA H200 SXM data sheet"),
    "B200": Peak(2250, 1100, 75, "NVIDIA DGX B200 data sheet, per GPU"),
}
TRAINING_SHARE, SCORING_SHARE = 0.3, 0.4  # of the peak, assumed


def peak_of(name: str | None) -> tuple[str, Peak] | None:
    """Return the GPU of this name, in any case and with or without its memory (A100-80G)."""
    wanted = (name or "").upper().partition("-")[0]
    return (wanted, PEAKS[wanted]) if wanted in PEAKS else None


def operations(peak: Peak, dtype: str, *, tf32: bool = False) -> float:
    """Return operations/s at the peak."""
    return 1e12 * (peak.bf16 if dtype == "bfloat16" else peak.tf32 if tf32 else peak.fp32)
