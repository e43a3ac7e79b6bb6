"""The GPUs that ``CUDA_VISIBLE_DEVICES`` makes visible to CUDA, worked out without CUDA."""

from __future__ import annotations

from collections.abc import Sequence


def chosen(text: str | None, there: Sequence[tuple[int, str]]) -> list[int]:
    """Return positions in ``there``, in the order in which CUDA counts them; ``there`` is (number of the GPU, UUID).

    As CUDA reads it: GPUs by number or by UUID, which may be cut short, up to the first that does not exist; a GPU
    named twice makes the whole list empty. For a GPU that is split into MIG instances a number means the first of them.
    """
    if text is None:
        return list(range(len(there)))
    found: list[int] = []
    for word in (one.strip() for one in text.split(",")):
        position = position_of(word, there)
        if position is None:
            break
        if position in found:
            return []
        found.append(position)
    return found


def position_of(word: str, there: Sequence[tuple[int, str]]) -> int | None:
    if word.isascii() and word.isdigit():
        return next((at for at, (number, _) in enumerate(there) if number == int(word)), None)
    if not word.startswith(("GPU-", "MIG-")):
        return None
    matching = [at for at, (_, uuid) in enumerate(there) if uuid.startswith(word)]
    return matching[0] if len(matching) == 1 else None
