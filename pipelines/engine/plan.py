"""The plan: every setting that decides the bytes of an output, recorded beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a patient is computed.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda:0``, ``mps`` ...
    batch_size : int
        Windows a forward pass; the last batch is padded to it, since torch's results depend on the batch shape.
    window_scale : float
        1, or 0.5 after an out-of-memory step that halved the window: then a warning stands in the report.
    precision : {'float32', 'bfloat16'}
        Autocast type of network forward passes.
    mode : {'exact', 'fast'}
        ``fast`` permits bfloat16 and the foreground crop where the model card says it was validated.
    threads : int
        Intra-op threads of the worker.
    seed : int
        Of anything random in a pipeline.
    compile : bool
        Whether ``torch.compile`` is used (CUDA only pays).
    """

    device: str = "cpu"
    batch_size: int = 1
    window_scale: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    mode: Literal["exact", "fast"] = "exact"
    threads: int = 1
    seed: int = 0
    compile: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    def ladder(self) -> tuple[Plan, ...]:
        """Return the plans to try after running out of memory, in order: half batch, half window, CPU."""
        half_batch = replace(self, batch_size=max(1, self.batch_size // 2))
        half_window = replace(self, batch_size=1, window_scale=0.5)
        on_cpu = replace(self, device="cpu", batch_size=1)
        steps = (half_batch, half_window) if self.device == "cpu" else (half_batch, half_window, on_cpu)
        return tuple(dict.fromkeys(step for step in steps if step != self))
