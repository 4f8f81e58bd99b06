"""The learning rate as a pure function of the step."""

import math


def learning_rate_share(step: int, *, steps: int, warmup_share: float, final_share: float) -> float:
    """Share of the peak rate at `step` (from 0): linear warm-up, then cosine to `final_share`."""
    warmup = round(steps * warmup_share)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
