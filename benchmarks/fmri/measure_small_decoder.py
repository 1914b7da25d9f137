"""What `train_small_decoder.py` made is worth, on pictures that it has not seen: t10k of Fashion-MNIST, the odd half of the emoji.

    python benchmarks/fmri/measure_small_decoder.py WEIGHTS --emoji PACKAGE [--test FILE] [--sheet FILE.png] [--json FILE]

WEIGHTS holds the two folders. Labels (of t10k) only measure here. Tokens + noise stand for tokens predicted from a brain.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from small_pictures import emoji_files, fashion, on_white
from torch import Tensor
from train_small_tokens import as_images, view

from chiasm.encoders.small_image_tokens import SmallImageTokens
from chiasm.heads.image_decoders.small_diffusion import SmallDiffusionConfig, SmallDiffusionDecoder

TEST = "/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz"
LEVELS = (0.0, 0.5, 1.0)
N = 300


def pixel_correlation(made: np.ndarray, true: np.ndarray) -> float:
    """Mean over pictures of the correlation of their pixels."""
    a, b = (x.reshape(len(x), -1) / 255.0 for x in (made, true))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    return float(np.mean((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)).clip(1e-12)))


def similarity(made: np.ndarray, true: np.ndarray) -> float:
    """Structural similarity of the grey pictures (Wang et al., 2004; normal window, sigma 1.5, edges of 5 pixels left out)."""
    grey = np.array([0.2125, 0.7154, 0.0721])
    a, b = made @ grey / 255.0, true @ grey / 255.0

    def mean(x: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(x, (0, 1.5, 1.5), truncate=3.5))[:, 5:-5, 5:-5]

    ma, mb = mean(a), mean(b)
    va, vb, covariance = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    first, second = 0.01**2, 0.03**2
    index = (2 * ma * mb + first) * (2 * covariance + second)
    return float(np.mean(index / ((ma**2 + mb**2 + first) * (va + vb + second))))


def retrieved(queries: Tensor, bank: Tensor) -> float:
    """Share of queries whose own entry has the largest cosine, both without their mean."""
    a, b = (torch.nn.functional.normalize((x - x.mean(0)).flatten(1), dim=1) for x in (queries, bank))
    return float(((a @ b.T).argmax(1) == torch.arange(len(a))).float().mean())


def probe(
    encoder: SmallImageTokens, train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """Accuracy of a ridge classifier with ten classes on tokens, and on pixels."""
    from sklearn.linear_model import RidgeClassifier

    def accuracy(a: np.ndarray, b: np.ndarray, alpha: float) -> float:
        return float(RidgeClassifier(alpha=alpha).fit(a, labels).score(b, truth))

    with torch.inference_mode():
        tokens = [torch.cat([encoder(torch.from_numpy(x)) for x in np.array_split(p, 20)]) for p in (train, test)]
    flat = [t.flatten(1).numpy() for t in tokens]
    pixels = [p[..., 0].reshape(len(p), -1) / 255.0 for p in (train, test)]
    return {"tokens": round(accuracy(*flat, 100.0), 4), "pixels": round(accuracy(*pixels, 10.0), 4)}


def measure_tokens(encoder: SmallImageTokens, pixels: np.ndarray) -> dict[str, float]:
    """Retrieval among the pictures, of noisy tokens and of tokens of another view; mean and variance of the channels."""
    torch.manual_seed(0)
    with torch.inference_mode():
        tokens = encoder(torch.from_numpy(pixels))
        seen, _ = view(as_images(torch.from_numpy(pixels)))
        moved = encoder(((seen.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))
    scores = {f"noise {level}": retrieved(tokens + level * torch.randn_like(tokens), tokens) for level in (1.0, 3.0)}
    scores |= {"view": retrieved(moved, tokens), "variance about its mean": float(tokens.var(0).mean())}
    return {key: round(value, 4) for key, value in scores.items()}


def measure_decoder(
    encoder: SmallImageTokens, decoder: SmallDiffusionDecoder, pixels: np.ndarray, told: Sequence[float]
) -> tuple[dict[str, dict[str, float]], list[np.ndarray]]:
    """Errors of pictures decoded from tokens with noise of `LEVELS`, the network being told of the levels `told`."""
    with torch.inference_mode():
        tokens = encoder(torch.from_numpy(pixels))
    average = np.broadcast_to(pixels.mean(0).round().astype(np.uint8), pixels.shape)
    table = {"mean picture": {"PixCorr": pixel_correlation(average, pixels), "SSIM": similarity(average, pixels)}}
    rows = []
    for level in LEVELS:
        spoilt = tokens + level * torch.randn(tokens.shape, generator=torch.Generator().manual_seed(1))
        for said in told:
            decoder.config = SmallDiffusionConfig(token_noise=said)
            made = decoder.decode(spoilt, seed=0, indices=range(len(spoilt))).numpy()
            scores = {"PixCorr": pixel_correlation(made, pixels), "SSIM": similarity(made, pixels)}
            with torch.inference_mode():
                scores["found"] = retrieved(encoder(torch.from_numpy(made)), tokens)
            table[f"noise {level}, told {said}"] = scores
            if said == told[0]:
                rows.append(made)
    return {key: {k: round(v, 4) for k, v in row.items()} for key, row in table.items()}, rows


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument("--test", type=Path, default=Path(TEST))
    parser.add_argument("--told", type=float, nargs="+", default=[0.5])
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    encoder = SmallImageTokens.load(options.weights / "small-image-tokens")
    decoder = SmallDiffusionDecoder.load(options.weights / "small-image-decoder")
    clothes = fashion(options.test)
    odd = [files[0] for files in emoji_files(options.emoji, even=False)]
    chosen = np.random.default_rng(0).permutation(len(odd))[:N]
    sets = {"t10k": clothes[:N], "odd emoji": np.stack([on_white(odd[i]) for i in chosen])}
    with gzip.open(str(options.test).replace("images-idx3", "labels-idx1")) as stream:
        labels = np.frombuffer(stream.read(), np.uint8, offset=8)
    results: dict[str, object] = {
        "probe": probe(encoder, clothes[1000:6000], labels[1000:6000], clothes[6000:], labels[6000:])
    }
    sheet = []
    for name, pixels in sets.items():
        begin = time.process_time()
        scores, rows = measure_decoder(encoder, decoder, pixels, options.told)
        spent = (time.process_time() - begin) / (N * len(LEVELS) * len(options.told))
        results[name] = {"tokens": measure_tokens(encoder, pixels), "pictures": scores, "s a picture": round(spent, 4)}
        sheet += [np.concatenate(list(row[:24]), axis=1) for row in (pixels, *rows)]
    text = json.dumps(results, indent=2)
    if options.json:
        options.json.write_text(text + "\n", "utf-8")
    if options.sheet:
        whole = Image.fromarray(np.concatenate(sheet))
        whole.resize((2 * whole.width, 2 * whole.height), Image.Resampling.NEAREST).save(options.sheet)
    print(text)


if __name__ == "__main__":
    main()
