"""Alike: whether two ways to run a module give the same values."""

from __future__ import annotations

from typing import Any

from serving.worker.device.trees import map_tensors

CHUNK = 1 << 22  # numbers
# Fractions of the largest value by which sums in another order may differ, by bits of the dtype.
TOLERANCES = {8: 0.25, 16: 0.02, 32: 0.002, 64: 1e-9}


def halved(tensor: Any) -> Any:
    """Return half of floating-point numbers; integers stay, since other indices may not exist."""
    return tensor * 0.5 if tensor.is_floating_point() else tensor


def difference(wanted: Any, found: Any) -> str | None:
    """Return where the tensors of the second tree differ from those of the first; None where they do not."""
    if len(flat(wanted)) != len(flat(found)):
        return f"there are {len(flat(wanted))} outputs and {len(flat(found))}"
    for number, (one, other) in enumerate(zip(flat(wanted), flat(found), strict=True)):
        if tuple(one.shape) != tuple(other.shape) or one.dtype != other.dtype:
            return f"output {number} is {one.dtype} {list(one.shape)} and {other.dtype} {list(other.shape)}"
        if (gap := distance(one, other)) > tolerance(one):
            return f"output {number} differs by {gap:.2g} of its largest value"
    return None


def tolerance(tensor: Any) -> float:
    if tensor.is_complex():
        return TOLERANCES[4 * tensor.element_size()]
    return TOLERANCES[8 * tensor.element_size()] if tensor.is_floating_point() else 0.0


def flat(tree: Any) -> list[Any]:
    found: list[Any] = []
    map_tensors(found.append, tree)
    return found


def distance(one: Any, other: Any) -> float:
    """Return the largest difference as a fraction of the largest value; infinite where NaN or infinity do not match."""
    gap = size = 0.0
    # In parts, since the difference of two large outputs needs memory beyond the model's.
    for left, right in zip(one.reshape(-1).split(CHUNK), other.reshape(-1).split(CHUNK), strict=True):
        finite = left.isfinite()
        if not finite.equal(right.isfinite()) or not left[~finite].isnan().equal(right[~finite].isnan()):
            return float("inf")
        if finite.any():
            left, right = exact(left[finite]), exact(right[finite])
            gap, size = max(gap, (left - right).abs().max().item()), max(size, left.abs().max().item())
    if gap == 0.0:
        return 0.0
    return gap / size if size else float("inf")


def exact(tensor: Any) -> Any:
    """Return the tensor in double precision, so that differences are hardly rounded."""
    import torch

    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
