"""What `chiasm/speech-deit` knows: properties of recordings read off its frozen tokens by ridge regression.

    python benchmarks/dementia/probe_speech.py WEIGHTS --work FOLDER [--pictures 320]

Recordings of 30 s, one speaker, made as in `pretrain_speech.py`; the share of variance that is explained (R2), from tokens of
the trained network, of the same network with random weights, and from the picture itself shrunk to 14 x 14 pixels a plane.
Fitted on sentences of the training set, tested on held-out sentences and on human voices; and fitted on one half of the human
voices' utterances, tested on the other, which tells what the tokens hold from whether a fit to synthetic speech carries over.
FOLDER as in `pretrain_speech.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).parent))
from pretrain_speech import MEL, NETWORK, SEED, Recordings, human_voices, synthesise

from chiasm.encoders.image_transformer import ImageTransformer, load_image_transformer
from chiasm.encoders.masked_patches import MaskedPatches, MaskedPatchesConfig, begin
from chiasm.encoders.speech_images import SpeechImageConfig, to_images

RESULTS = Path(__file__).parents[1] / "results" / "speech_deit.json"


def examples(maker: Recordings, n: int) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Return n pictures and what each recording was made with."""
    pictures, drawn = [], []
    for _ in range(n):
        pictures.append(to_images(maker.picture(n_speakers=1, seconds=30), MEL.hop_s, SpeechImageConfig()).pixels)
        drawn.append(maker.drawn)
    return torch.cat(pictures), {key: np.array([row[key] for row in drawn]) for key in drawn[0]}


@torch.no_grad()
def tokens(encoder: ImageTransformer, pixels: torch.Tensor) -> np.ndarray:
    """Mean and deviation of the patch tokens, and the class token."""
    found = []
    for part in pixels.split(16):
        out = encoder(part).tokens
        patches = out[:, encoder.n_special :]
        found.append(torch.cat([patches.mean(1), patches.std(1), out[:, 0]], dim=1))
    return torch.cat(found).numpy()


def shrunk(pixels: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.adaptive_avg_pool2d(pixels, 14).flatten(1).numpy()


def random_encoder() -> ImageTransformer:
    torch.manual_seed(SEED)
    encoder = ImageTransformer.from_config(NETWORK)
    begin(MaskedPatches(encoder, MaskedPatchesConfig()))
    return encoder.eval()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=320)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spoken, n = synthesise(arguments.work), arguments.pictures
    data = {
        "train": examples(Recordings(spoken["train"], SEED + 10), n),
        "held-out sentences": examples(Recordings(spoken["held-out"], SEED + 11), n // 2),
    }
    fitted_on = {"held-out sentences": "train"}
    if human := human_voices():
        data["human voices"] = examples(Recordings({"human": human}, SEED + 12), n // 2)
        data["half of the human voices"] = examples(Recordings({"human": human[::2]}, SEED + 13), n)
        data["other half of the human voices"] = examples(Recordings({"human": human[1::2]}, SEED + 14), n // 2)
        fitted_on |= {"human voices": "train", "other half of the human voices": "half of the human voices"}
    trained, untrained = load_image_transformer(arguments.weights), random_encoder()
    views = {
        "trained": lambda pixels: tokens(trained, pixels),
        "random weights": lambda pixels: tokens(untrained, pixels),
        "picture of 14 x 14": shrunk,
    }
    r2: dict[str, dict[str, dict[str, float]]] = {name: {} for name in fitted_on}
    for view, features in views.items():
        seen = {name: features(pixels) for name, (pixels, _) in data.items()}
        for name, source in fitted_on.items():
            scaler = StandardScaler().fit(seen[source])
            for target, truth in data[name][1].items():
                ridge = RidgeCV(np.logspace(-1, 5, 13)).fit(scaler.transform(seen[source]), data[source][1][target])
                error = ((ridge.predict(scaler.transform(seen[name])) - truth) ** 2).mean() / truth.var()
                r2[name].setdefault(target, {})[view] = round(float(1 - error), 3)
    log = [json.loads(line) for line in (arguments.weights / "training.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(log) if "held-out sentences" in row)
    result = {
        "command": f"python benchmarks/dementia/probe_speech.py WEIGHTS --work FOLDER --pictures {n}",
        "masked_patches": last,
        "fitted_on": fitted_on,
        "explained_variance": r2,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
