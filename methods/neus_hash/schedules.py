"""neus-hash's schedules: functions of the step alone, so that a loaded checkpoint stands where it was saved."""

from __future__ import annotations

Weight = float | tuple[float, float, float, float]
"""A constant, or (start step, value before, value after, end step)."""


def weight_at(weight: Weight, step: int) -> float:
    """A loss's weight at a step: linear between the two steps, constant outside."""
    if isinstance(weight, int | float):
        return float(weight)
    start, before, after, end = weight
    done = min(max((step - start) / (end - start), 0.0), 1.0)
    return float(before + done * (after - before))


def is_off(weight: Weight) -> bool:
    """Whether a loss's weight is zero at every step."""
    return weight == 0 if isinstance(weight, int | float) else weight[1] == weight[2] == 0


def cos_anneal(step: int, end: int) -> float:
    """Share a of the final form of the cosine, in [0, 1]; 1 from the start where ``end`` is 0."""
    return min(1.0, step / end) if end > 0 else 1.0


def active_levels(step: int, total: int, start: int | None, every: int) -> int:
    """Levels of the grid in use at a step: one more each ``every`` steps."""
    return total if start is None else min(total, start + step // every)


def learning_rate_factor(
    step: int, warm_up: int, warm_up_from: float, constant: int, max_steps: int, final: float
) -> float:
    """Linear warm-up, constant, then exponential decay to ``final`` at ``max_steps``."""
    if step < warm_up:
        return warm_up_from + (1 - warm_up_from) * step / warm_up
    start = warm_up + constant
    if step < start or max_steps <= start:
        return 1.0
    return float(final ** min((step - start) / (max_steps - start), 1.0))


def next_rays(rays: int, samples: int, target: int, most: int) -> int:
    """Rays of the next batch: nine tenths of this one's, one of what this one's samples per ray would want.

    Args:
        rays: Of this batch.
        samples: Of this batch.
        target: Samples wanted.
        most: Rays at most.
    """
    wanted = int(rays * target / samples) if samples else most
    return max(1, min(int(0.9 * rays + 0.1 * wanted), most))
