"""Train `chiasm/speech-deit`: a small DeiT that fills in hidden patches of speech pictures. No label is read.

    python benchmarks/dementia/pretrain_speech.py OUT --work FOLDER [--minutes 35]

Speech is made by flite (voices kal16, awb, rms, slt) from sentences of a grammar; the phantoms of the project speak with
espeak-ng, another synthesiser. The loss on sentences that were held out, and on two human voices that are never trained on
(prompts of Asterisk, LibriVox readings of PocketSphinx), is written beside the loss of the best constant picture.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

from chiasm.encoders.image_transformer import ImageTransformer
from chiasm.encoders.log_mel import LogMelConfig, LogMelImage
from chiasm.encoders.masked_patches import MaskedPatches, MaskedPatchesConfig, MaskedPatchesOutput, begin
from chiasm.encoders.speech_images import SpeechImageConfig, to_images
from chiasm.pipelines.engine.memory import keep_freed_memory

SEED = 20261121
VOICES = ("kal16", "awb", "rms", "slt")
SENTENCES, HELD_OUT = 360, 40  # a voice
HUMAN = ("/usr/share/asterisk/sounds", "/usr/share/pocketsphinx/test/data/librivox")
RATE = 22050
NETWORK = {
    "model_type": "deit", "image_size": 224, "patch_size": 16, "num_channels": 3, "hidden_size": 192,
    "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768,
}  # fmt: skip
BATCH, BUFFER, CROPS_A_RECORDING, PEAK_RATE = 32, 64, 24, 1e-3
MEL = LogMelConfig()

WHO = (
    "my sister|the baker|an old sailor|the children|our neighbour|a young doctor|the gardener|two students|the postman|"
    "her uncle|the woman next door|a tired teacher|the boy with the red hat|the whole family|nobody in the village|"
    "the driver|his grandmother|a painter from the city|the farmer|three friends"
).split("|")
DID = (
    "carried|painted|forgot|found|bought|repaired|looked for|watched|described|borrowed|washed|lost|opened|hid|"
    "wanted to sell|could not see|was thinking about|talked about|finally understood|dropped"
).split("|")
WHAT = (
    "a basket of apples|the blue umbrella|an empty bottle|the map of the islands|seven wooden chairs|a letter from abroad|"
    "the broken clock|some fresh bread|a pair of leather shoes|the little boat|his favourite song|a bucket of cold water|"
    "the garden gate|thirty five stamps|an unusual question|the last train ticket|a very long story|the piano|"
    "a jar of honey|the newspaper of yesterday"
).split("|")
WHERE = (
    "across the bridge|in the kitchen|behind the church|at the end of the road|near the harbour|under the table|"
    "on the way to school|in front of the station|up on the hill|between two houses|in the rain|by the open window|"
    "at the market|down in the valley|inside the old mill|"
).split("|")
WHEN = (
    "this morning|late at night|after the storm|on Thursday|before breakfast|in the middle of winter|a week ago|"
    "every single day|when the bell rang|while it was snowing|in nineteen eighty four|as usual||"
).split("|")
JOIN = (
    "and then|but|because|so|although|which was odd, since|and|while|and of course|until|unless, as they say,"
).split("|")
OPEN = ("well,|I think|you know,|perhaps|they say that|let me see,|if I remember,|do you believe that||||").split("|")


def sentences(n: int) -> list[str]:
    """Make n different sentences; the last ones are held out."""
    rng = np.random.default_rng(SEED)

    def clause() -> str:
        return " ".join(part for part in (str(rng.choice(words)) for words in (WHO, DID, WHAT, WHERE, WHEN)) if part)

    made: dict[str, None] = {}
    while len(made) < n:
        parts = [str(rng.choice(OPEN)), clause()]
        while rng.random() < 0.4:
            parts += [str(rng.choice(JOIN)), clause()]
        made[" ".join(part for part in parts if part) + "."] = None
    return list(made)


def synthesise(work: Path) -> dict[str, dict[str, list[np.ndarray]]]:
    """Return split -> voice -> utterances at 16 kHz; files that exist already are read."""
    work.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED + 1)
    texts, jobs = sentences(len(VOICES) * (SENTENCES + HELD_OUT)), []
    for index, text in enumerate(texts):
        voice, number = VOICES[index % len(VOICES)], index // len(VOICES)
        path = work / f"{'held-out' if number >= SENTENCES else 'train'}_{voice}_{number:04d}.wav"
        stretch, pitch = rng.uniform(0.8, 1.5), rng.uniform(85, 210)
        command = ["flite", "-voice", voice, "--setf", f"duration_stretch={stretch:.2f}"]
        command += ["--setf", f"int_f0_target_mean={pitch:.0f}", "-t", text, "-o", str(path)]
        jobs.append((path, command))

    def speak(job: tuple[Path, list[str]]) -> np.ndarray:
        if not job[0].exists():
            subprocess.run(job[1], check=True)
        return soundfile.read(job[0], dtype="float32")[0]

    with ThreadPoolExecutor(1) as pool:
        waves = list(pool.map(speak, jobs))
    found: dict[str, dict[str, list[np.ndarray]]] = {"train": {}, "held-out": {}}
    for (path, _), wave in zip(jobs, waves, strict=True):
        split, voice, _ = path.stem.split("_")
        found[split].setdefault(voice, []).append(wave)
    return found


def human_voices() -> list[np.ndarray]:
    """Read the two human voices, at 16 kHz; empty where the packages are not installed."""
    waves = []
    for root in HUMAN:
        for path in sorted(Path(root).rglob("*.wav")):
            wave, rate = soundfile.read(path, dtype="float32")
            if len(wave) > 2 * rate:
                waves.append(soxr.resample(wave, rate, 16000))
    return waves


class Recordings:
    """Recordings put together from utterances: pauses, one or two speakers, other vocal tracts, rooms, noises, levels."""

    def __init__(self, voices: dict[str, list[np.ndarray]], seed: int) -> None:
        self.voices, self.rng = list(voices.values()), np.random.default_rng(seed)
        self.image = LogMelImage(MEL)
        self.drawn: dict[str, float] = {}  # what the last recording was made with

    def picture(self, *, n_speakers: int | None = None, seconds: float | None = None) -> torch.Tensor:
        """Return the log-Mel picture of a new recording, shape (3, 224, T)."""
        rng = self.rng
        n_speakers = n_speakers or 1 + int(rng.random() < 0.35)
        speakers = [(self.voices[rng.integers(len(self.voices))], rng.uniform(0.84, 1.2)) for _ in range(n_speakers)]
        levels, pause_s = rng.uniform(0.3, 1, n_speakers), rng.lognormal(-0.6, 0.8)
        seconds, parts, total = seconds or math.exp(rng.uniform(math.log(15), math.log(90))), [], 0
        self.drawn = {"log pause": math.log(pause_s), "vocal tract": speakers[0][1]}
        while total < seconds * RATE:
            who = int(rng.integers(n_speakers))
            utterances, factor = speakers[who]
            spoken = utterances[rng.integers(len(utterances))]
            if rng.random() < 0.3:  # broken off
                spoken = spoken[: int(len(spoken) * rng.uniform(0.15, 0.9))]
            wave = levels[who] * soxr.resample(spoken, 16000, RATE / factor, quality="MQ")
            silence = np.zeros(int(RATE * min(6.0, pause_s * rng.lognormal(0, 0.7))), np.float32)
            parts += [wave.astype(np.float32), silence]
            total += len(wave) + len(silence)
        recording = np.concatenate(parts)[: int(seconds * RATE)]
        recording = self._room(recording) + self._noise(len(recording), float(np.std(recording)))
        return self.image(torch.from_numpy(np.float32(recording))[None])[0][0]

    def crop(self, picture: torch.Tensor) -> torch.Tensor:
        """Return a stretch of 4 s or more, squeezed to the network's size, shape (3, 224, 224)."""
        n_frames = picture.shape[2]
        length = min(n_frames, int(math.exp(self.rng.uniform(math.log(180), math.log(max(181, n_frames * 1.3))))))
        start = int(self.rng.integers(n_frames - length + 1))
        return to_images(picture[:, :, start : start + length], MEL.hop_s, SpeechImageConfig()).pixels[0]

    def _room(self, wave: np.ndarray) -> np.ndarray:
        out = wave
        for _ in range(int(self.rng.integers(0, 4))):  # a few echoes
            delay = int(self.rng.uniform(0.003, 0.09) * RATE)
            out = out + self.rng.uniform(0.05, 0.4) * np.pad(wave, (delay, 0))[: len(wave)]
        tilt = self.rng.uniform(-0.5, 0.5)
        return out - tilt * np.pad(out, (1, 0))[: len(out)]

    def _noise(self, n: int, level: float) -> np.ndarray:
        white = self.rng.standard_normal(n, dtype=np.float32)
        share = self.rng.uniform(0, 1)  # of noise that falls towards high frequencies
        slow = np.convolve(white, np.full(8, 0.125, np.float32), mode="same")
        hum = self.rng.uniform(0, 0.3) * np.sin(2 * np.pi * 50 * self.rng.integers(1, 3) / RATE * np.arange(n))
        decibels = self.rng.uniform(8, 60)
        self.drawn["noise level"] = -decibels
        return level * 10 ** (-decibels / 20) * (share * 2.8 * slow + (1 - share) * white + hum)


def batches(recordings: Recordings) -> Iterator[torch.Tensor]:
    """Yield batches for ever; a buffer of recordings is renewed little by little."""
    buffer = [recordings.picture().half() for _ in range(BUFFER)]
    credit = 0.0
    while True:
        chosen = recordings.rng.integers(len(buffer), size=BATCH)
        yield torch.stack([recordings.crop(buffer[i].float()) for i in chosen])
        credit += BATCH / CROPS_A_RECORDING
        while credit >= 1:
            buffer[recordings.rng.integers(len(buffer))] = recordings.picture().half()
            credit -= 1


def step(network: MaskedPatches, pixels: torch.Tensor, generator: torch.Generator) -> MaskedPatchesOutput:
    with torch.autocast("cpu", torch.bfloat16):
        return network(pixels, generator=generator)


@torch.no_grad()
def evaluate(network: MaskedPatches, pixels: torch.Tensor, constant: torch.Tensor) -> dict[str, object]:
    """Return the loss, and those of the picture's own mean and of the mean training picture, over the same patches.

    ``explained`` is the share of the mean picture's loss that is gone, over all planes and in each.
    """
    network.eval()
    generator, sums = torch.Generator().manual_seed(1), np.zeros((3, 3))
    for part in pixels.split(BATCH):
        out = step(network, part, generator)
        for i, guess in enumerate((out.predicted, torch.zeros_like(out.target), constant.expand_as(out.target))):
            sums[i] += (guess - out.target).square().unflatten(2, (3, -1)).mean(3)[out.hidden].mean(0).numpy() * len(
                part
            )
    network.train()
    (model, own, mean), planes = (sums.mean(1) / len(pixels)).tolist(), 1 - sums[0] / sums[2]
    found = {"loss": model, "own_mean": own, "mean_picture": mean, "explained": 1 - model / mean}
    return {key: round(value, 4) for key, value in found.items()} | {"explained_by_plane": planes.round(4).tolist()}


def save(encoder: ImageTransformer, out: Path, training: dict[str, object]) -> None:
    """Write the folder, float16; what the project wants to know of weights stands beside transformers' fields."""
    copy.deepcopy(encoder).half().save(out)
    config = json.loads((out / "config.json").read_text())
    config |= {
        "kind": "image-transformer",
        "channels": ["log-Mel", "delta", "delta-delta"],
        "parameters": {
            "log_mel": asdict(MEL),
            "images": {"mode": "resize", "size": [224, 224], "normalise": "min-max"},
        },
        "training": {"generated": True, "seed": SEED, "device": "cpu", "precision": "bfloat16", **training},
        "training_data": "self-supervised",
        "statement": "features",
        "licence": "Apache-2.0",
        "source": "benchmarks/dementia/pretrain_speech.py",
        "sha256": {"model.safetensors": hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()},
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="where synthesised speech is kept")
    parser.add_argument("--minutes", type=float, default=35)
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    spoken = synthesise(arguments.work)
    recordings = Recordings(spoken["train"], SEED + 2)
    tests = {"held-out sentences": Recordings(spoken["held-out"], SEED + 3)}
    if human := human_voices():
        tests["human voices"] = Recordings({"human": human}, SEED + 4)
    held_out = {
        name: torch.stack([maker.crop(maker.picture()) for _ in range(4 * BATCH)]) for name, maker in tests.items()
    }
    network = MaskedPatches(ImageTransformer.from_config(NETWORK), MaskedPatchesConfig(plane_weights=(1.0, 0.2, 0.2)))
    begin(network)
    network.train()
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95))
    stream, generator = batches(recordings), torch.Generator().manual_seed(SEED)
    constant = torch.stack([network.targets(next(stream)).mean(0) for _ in range(16)]).mean(0)[None]
    arguments.out.mkdir(parents=True, exist_ok=True)
    log = arguments.out / "training.jsonl"
    log.unlink(missing_ok=True)
    began, saved, n_steps, losses = time.monotonic(), time.monotonic(), 0, []
    while (done := (time.monotonic() - began) / (60 * arguments.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(done / 0.05, 0.5 * (1 + math.cos(math.pi * done))) + 1e-6
        loss = step(network, next(stream), generator).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        n_steps += 1
        if n_steps % 50 == 0:
            row = {
                "step": n_steps,
                "minutes": round((time.monotonic() - began) / 60, 2),
                "loss": round(np.mean(losses), 4),
            }
            losses.clear()
            if time.monotonic() - saved > 180:
                saved = time.monotonic()
                row |= {name: evaluate(network, pixels, constant) for name, pixels in held_out.items()}
                save(network.encoder, arguments.out, {"steps": n_steps, "batch": BATCH})
            with log.open("a") as stream_:
                stream_.write(json.dumps(row) + "\n")
    final = {name: evaluate(network, pixels, constant) for name, pixels in held_out.items()}
    minutes = round((time.monotonic() - began) / 60, 1)
    save(network.encoder, arguments.out, {"steps": n_steps, "batch": BATCH, "minutes": minutes, "held_out": final})
    with log.open("a") as stream_:
        stream_.write(json.dumps({"step": n_steps, "minutes": minutes, **final}) + "\n")


if __name__ == "__main__":
    main()
