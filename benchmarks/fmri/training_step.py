"""A training step of MindEye2 with its prior beside a plain implementation, interleaved, one thread: CPU seconds, losses, memory.

    OMP_NUM_THREADS=1 python benchmarks/fmri/training_step.py [--steps 12] [--sizes small mid] [--precisions float32 bfloat16]

`plain_mindeye2.py` is the peer; its tuned form keeps freed memory, as ours does. Both start from equal weights and see equal trials and
draws, so that losses must be equal; both clip gradients and use AdamW with one cycle; ours also averages weights and reads ahead. Without
the low-level branch. Medians leave the first two steps out. With CUDA a second part measures a step of MindEye1's published size in
bfloat16, its TFLOP/s beside those of a large matrix product, and seconds an image of network and prior; that part was written without a
GPU and never run. Results: benchmarks/results/fmri_training_step.json.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
import plain_mindeye2 as plain
import torch

from chiasm.data.fmri.betas import ArrayBetas, Betas, StoredBetas
from chiasm.data.fmri.decoding_set import BrainSubject
from chiasm.data.fmri.scaling import VoxelScaler, fit_scaler
from chiasm.data.fmri.trials import Trials, by_image
from chiasm.encoders.mindeye2 import MindEye2Config, MindEye2Network
from chiasm.fusion.mixco import draw_mixco
from chiasm.heads.diffusion_prior import DiffusionPrior, DiffusionPriorConfig
from chiasm.heads.prior_network import PriorNetworkConfig
from chiasm.pipelines.engine.memory import keep_freed_memory
from chiasm.pipelines.training.checkpoints import State
from chiasm.pipelines.training.fmri.fit import FitData, _step, decay_groups, one_cycle
from chiasm.pipelines.training.fmri.model import BrainModel
from chiasm.pipelines.training.fmri.objective import StepInput, _soft_temperature, step_loss
from chiasm.pipelines.training.fmri.settings import FmriTraining
from chiasm.pipelines.training.fmri.streams import SubjectSource, TrialStream

RESULTS = Path(__file__).parents[1] / "results" / "fmri_training_step.json"
SUBJECTS, IMAGES, REPEATS, SESSIONS, WARM_UP = ("01", "02"), 400, 3, 4, 2
NAMES = ("voxels", "hidden", "blocks", "tokens", "width", "projector", "depth", "heads", "dim_head", "batch")
SIZES: dict[str, dict[str, int]] = {
    "small": dict(zip(NAMES, (2000, 384, 2, 16, 64, 128, 3, 4, 32, 96), strict=True)),
    "mid": dict(zip(NAMES, (5000, 1024, 4, 64, 256, 256, 6, 8, 32, 32), strict=True)),
}
"""`small`: the recipe fmri-images."""
FORMS = ("plain", "plain, memory kept", "chiasm")
Stepper = Callable[[], float]


def trials() -> Trials:
    n = IMAGES * REPEATS
    return Trials(
        row=np.arange(n),
        image=np.arange(n) % IMAGES,
        session=1 + np.arange(n) * SESSIONS // n,
        repeat=np.arange(n) // IMAGES,
        split=np.zeros(n, dtype=np.int8),
    )


def stream_of(betas: Iterable[Betas], size: dict[str, int], seed: int, kind: str) -> TrialStream:
    sources = {}
    for name, one in zip(SUBJECTS, betas, strict=True):
        scaler = fit_scaler(one, trials(), kind)
        subject = BrainSubject(name=name, betas=one, trials=trials())
        sources[name] = SubjectSource(subject=subject, images=by_image(trials()), scaler=scaler)
    return TrialStream(sources, batch_size=size["batch"], repeats="cycle", seed=seed)


def model_of(size: dict[str, int]) -> BrainModel:
    torch.manual_seed(0)
    config = MindEye2Config(
        hidden=size["hidden"], n_blocks=size["blocks"], tokens=size["tokens"], width=size["width"], projector_hidden=size["projector"]
    )  # fmt: skip
    prior = PriorNetworkConfig(
        dim=size["width"],
        num_tokens=size["tokens"],
        depth=size["depth"],
        heads=size["heads"],
        dim_head=size["dim_head"],
    )
    return BrainModel(
        "mindeye2",
        MindEye2Network(config, dict.fromkeys(SUBJECTS, size["voxels"])),
        DiffusionPrior(prior, DiffusionPriorConfig(timesteps=100, embed_scale=1.0)),
    )


def targets_of(size: dict[str, int]) -> torch.Tensor:
    return torch.randn(IMAGES, size["tokens"], size["width"], generator=torch.Generator().manual_seed(1))


def by_chiasm(folder: Path, size: dict[str, int], settings: FmriTraining, total: int) -> Stepper:
    betas = [StoredBetas(folder / f"{name}.npy") for name in SUBJECTS]
    stream, targets, model = stream_of(betas, size, settings.seed, "session-zscore"), targets_of(size), model_of(size)
    data = FitData(stream=stream, targets=lambda images: targets[torch.from_numpy(images)])
    optimizer = torch.optim.AdamW(decay_groups(model, settings.weight_decay), lr=settings.learning_rate)
    state = State(model, copy.deepcopy(model).requires_grad_(False).eval(), optimizer)
    return lambda: _step(state, data, settings, total)["loss"]


def by_plain(folder: Path, size: dict[str, int], settings: FmriTraining, total: int) -> Stepper:
    shape = {name: size[name] for name in ("hidden", "blocks", "tokens", "width", "projector")}
    network = plain.Network([size["voxels"]] * len(SUBJECTS), **shape)
    shape = {name: size[name] for name in ("tokens", "depth", "heads", "dim_head")}
    prior = plain.Prior(dim=size["width"], timesteps=100, **shape)
    ours = model_of(size)
    network.load_state_dict(ours.network.state_dict())
    weights = {name: value for name, value in ours.prior.state_dict().items() if not name.startswith("noise_scheduler")}
    prior.load_state_dict(weights)
    whole = torch.nn.ModuleDict({"network": network, "prior": prior}).train()
    optimizer = torch.optim.AdamW(decay_groups(whole, settings.weight_decay), lr=settings.learning_rate)
    scalers = [fit_scaler(StoredBetas(folder / f"{name}.npy"), trials(), "session-zscore") for name in SUBJECTS]
    numbers = [ArrayBetas(np.arange(IMAGES * REPEATS, dtype=np.float32)[:, None])] * len(SUBJECTS)
    order, targets, place = stream_of(numbers, size, settings.seed, "none"), targets_of(size), [0]

    def step() -> float:
        number = int.from_bytes(hashlib.sha256(f"{settings.seed}/{place[0]}".encode()).digest()[:6], "big")
        torch.manual_seed(number)
        generator = torch.Generator().manual_seed(number)
        rows = [batch.voxels[:, 0].astype(int) for batch in order.step(place[0]).values()]
        progress = place[0] / total
        for group in optimizer.param_groups:
            group["lr"] = one_cycle(place[0], total, settings)
        groups = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([len(one) for one in rows]))
        draw = (
            draw_mixco(len(groups), generator, alpha=settings.mixco_alpha, groups=groups)
            if progress < settings.mixup_share
            else None
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bfloat16"):
            tokens, projected, start = [], [], 0
            for index, (name, one, scaler) in enumerate(zip(SUBJECTS, rows, scalers, strict=True)):
                voxels = read(folder / f"{name}.npy", one, scaler)
                if draw is not None:
                    part = slice(start, start + len(one))
                    beta = draw.beta[part, None]
                    voxels = beta * voxels + (1 - beta) * voxels[draw.permutation[part] - start]
                start += len(one)
                both = network(voxels, index)
                tokens.append(both[0])
                projected.append(both[1])
            wanted = targets[torch.from_numpy(np.concatenate(rows) % IMAGES)]
            mixed = None if draw is None else (draw.beta, draw.permutation)
            temperature = settings.mixco_tau if mixed else _soft_temperature(progress, settings)
            loss = plain.contrastive(torch.cat(projected), wanted, temperature=temperature, mixed=mixed)
            loss = loss * settings.contrastive_weight
            loss = loss + settings.prior_weight * prior.loss(torch.cat(tokens), wanted, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(whole.parameters(), settings.clip_norm)
        optimizer.step()
        place[0] += 1
        return loss.item()

    return step


def read(path: Path, rows: np.ndarray, scaler: VoxelScaler) -> torch.Tensor:
    sd = np.where(scaler.session_sd > 0, scaler.session_sd, np.inf)
    return plain.trials(str(path), rows, rows * SESSIONS // (IMAGES * REPEATS), scaler.session_mean, sd)


def child(form: str, folder: Path, name: str, precision: str, steps: int) -> None:
    """One form in a fresh process: a step a line of input, so that the parent can interleave."""
    torch.set_num_threads(1)
    if form != "plain":
        keep_freed_memory()
    make = by_chiasm if form == "chiasm" else by_plain
    step = make(folder, SIZES[name], FmriTraining(precision=precision, batch_size=SIZES[name]["batch"]), steps)
    for _ in sys.stdin:
        start, wall = time.process_time(), time.perf_counter()
        loss = step()
        row = {"cpu_s": time.process_time() - start, "wall_s": time.perf_counter() - wall, "loss": loss}
        row["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def interleaved(name: str, precision: str, steps: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for subject in SUBJECTS:
            shape = (IMAGES * REPEATS, SIZES[name]["voxels"])
            np.save(Path(folder) / f"{subject}.npy", rng.standard_normal(shape, dtype=np.float32))
        workers = {
            form: subprocess.Popen(
                [sys.executable, __file__, "--child", form, folder, name, precision, "--steps", str(steps)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for form in FORMS
        }
        for _ in range(steps):
            for form, worker in workers.items():
                worker.stdin.write("step\n")
                worker.stdin.flush()
                found[form].append(json.loads(worker.stdout.readline()))
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    losses = {form: np.array([row["loss"] for row in rows]) for form, rows in found.items()}
    apart = np.abs(losses["plain"] - losses["chiasm"]) / np.abs(losses["plain"])
    cpu = {form: statistics.median(row["cpu_s"] for row in rows[WARM_UP:]) for form, rows in found.items()}
    return {
        "cpu_s_per_step": {form: round(value, 4) for form, value in cpu.items()},
        "ratio": {form: round(value / cpu["chiasm"], 2) for form, value in cpu.items() if form != "chiasm"},
        "peak_rss_mb": {form: max(row["peak_rss_mb"] for row in rows) for form, rows in found.items()},
        "losses": {form: [round(float(value), 6) for value in values] for form, values in losses.items()},
        "relative_difference_of_losses": {"first_step": float(apart[0]), "largest": float(apart.max())},
    }


def on_cuda(repeats: int = 20) -> dict[str, Any]:
    """MindEye1's published size on a GPU, bfloat16, with and without compiling. Not run where this was written."""
    from torch.utils.flop_counter import FlopCounterMode

    from chiasm.encoders.mindeye import MindEyeConfig, MindEyeNetwork

    device, settings = torch.device("cuda"), FmriTraining(precision="bfloat16")
    a, b = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * 8192**3 / seconds(lambda: a @ b, repeats) / 1e12
    prior = DiffusionPrior(PriorNetworkConfig(), DiffusionPriorConfig())
    model = BrainModel("mindeye", MindEyeNetwork(MindEyeConfig(), {"01": 15724}), prior).to(device).train()
    optimizer = torch.optim.AdamW(decay_groups(model, 1e-2), lr=3e-4, fused=True)
    batch = StepInput(
        voxels={"01": torch.randn(32, 15724, device=device)}, targets=torch.randn(32, 257, 768, device=device)
    )

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss, _ = step_loss(model, batch, settings, progress=0.5, generator=torch.Generator().manual_seed(0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    work = counter.get_total_flops() / 1e12
    found: dict[str, Any] = {"device": torch.cuda.get_device_name(), "matmul_tflop_per_s": round(rate, 1)}
    for form in ("eager", "compiled"):
        if form == "compiled":
            model.network.compile()
            prior.net.compile()
        s = seconds(step, repeats)
        found[form] = {"s_per_step": round(s, 5), "tflop_per_s": round(work / s, 1), "share": round(work / s / rate, 3)}
    found |= {"tflop_per_step": round(work, 3), "peak_memory_mb": torch.cuda.max_memory_allocated() >> 20}
    model.eval()
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        output = model.network(batch.voxels["01"], "01")
        found["s_per_image"] = {
            "network": seconds(lambda: model.network(batch.voxels["01"], "01"), repeats) / 32,
            "prior, DPM-Solver++, 20 steps": seconds(lambda: prior.sample(output.tokens, steps=20), 3) / 32,
            "prior, DDPM, 100 steps": seconds(lambda: prior.sample(output.tokens, sampler="ddpm"), 1) / 32,
            "decoder": None,  # needs weights that are not part of this package
        }
    return found


def seconds(work: Callable[[], object], repeats: int) -> float:
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--sizes", nargs="+", choices=tuple(SIZES), default=list(SIZES))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--child", nargs=4, metavar=("FORM", "FOLDER", "SIZE", "PRECISION"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        form, folder, name, precision = given.child
        child(form, Path(folder), name, precision, given.steps)
        return
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/fmri/training_step.py "
        f"--steps {given.steps} --sizes {' '.join(given.sizes)} --precisions {' '.join(given.precisions)}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "versions": {name: version(name) for name in ("torch", "numpy")},
        "subjects": len(SUBJECTS),
        "sizes": {name: SIZES[name] for name in given.sizes},
        "steps": {
            f"{name}, {precision}": interleaved(name, precision, given.steps)
            for name in given.sizes
            for precision in given.precisions
        },
        "cuda": on_cuda() if torch.cuda.is_available() else None,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
