"""Are the maps of words and sound faithful? Deletion against random orders, the other class's map, randomised weights.

    OMP_NUM_THREADS=1 python benchmarks/dementia/explanations.py DATA STUDY/weights [--cache STUDY/features] [--persons 60]

DATA is the folder that the study was made of; its test persons are explained for the class that the classifier gives them, with the
tokens and the relevance of `chiasm run`. Deletion takes a random order's place (10 orders a person) and a bootstrap over persons says
whether the difference is more than luck. What is taken away is hidden from the classifier; in "words, text read again" also from the
text encoder. Sanity checks: the maps of two classes must differ; a map must not survive weights that are drawn anew (Adebayo et al.,
NeurIPS 2018), beside the agreement among classifiers that differ in the seed of their training only. Results:
benchmarks/results/dementia_explanations.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor

from chiasm.data.datasets.interviews import labelled_interviews
from chiasm.data.interviews import InterviewSet
from chiasm.heads.deletion import DeletionCase, Faithfulness, Score, compare_with_random
from chiasm.heads.two_stream import StatisticsVector, TwoStreamClassifier
from chiasm.heads.two_stream_relevance import TwoStreamRelevance
from chiasm.pipelines.engine.weights import check_synthetic, find
from chiasm.pipelines.recipes import load_recipe
from chiasm.pipelines.speech_recipe import SpeechRecipe
from chiasm.pipelines.stages.speech.cache import FeatureCache
from chiasm.pipelines.stages.speech.components import load_encoders
from chiasm.pipelines.stages.speech.explain import relevance_of, vector_shares
from chiasm.pipelines.stages.speech.features import SpeechFeatures
from chiasm.pipelines.stages.speech.predictor import SpeechPredictor
from chiasm.pipelines.training.speech.batches import Batch
from chiasm.pipelines.training.speech.gather import gather, read_samples

RESULTS = Path(__file__).parents[1] / "results" / "dementia_explanations.json"
STEPS, N_RANDOM, N_RESAMPLES, LEVEL = 10, 10, 2000, 0.95
REDRAWN = 3
"""Classifiers with weights drawn anew."""
PARTS = ("words", "sound", "both")


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One test person: tokens on the graph of the text encoder, which of them may go, and the class that is explained."""

    person: str
    features: SpeechFeatures
    batch: Batch
    attention: tuple[Tensor, ...]
    target: int
    right: bool

    @property
    def n_text(self) -> int:
        return self.batch.text_mask.shape[1]

    def valid(self, part: str) -> Tensor:
        """Tokens that may be taken away: words without special tokens, sound, or both."""
        words = self.features.word_index >= 0 if part != "sound" else torch.zeros(self.n_text, dtype=torch.bool)
        sound = torch.full((self.batch.audio_mask.shape[1],), part in ("sound", "both"))
        return torch.cat([words, sound])


def forward(classifier: TwoStreamClassifier, batch: Batch, *, keep: bool = False) -> Any:
    return classifier(
        batch.text,
        batch.text_mask,
        batch.audio,
        batch.audio_mask,
        statistics=(batch.text_statistics, batch.audio_statistics),
        keep_attention=keep,
    )


def cases_of(
    found: InterviewSet, predictor: SpeechPredictor, cache: FeatureCache, persons: int, seed: int
) -> list[Case]:
    """Draw test persons and read them; those without one of the modalities are not drawn."""
    test = [one for one in found.of_split("test") if one.label and one.audio and one.transcript]
    drawn = np.random.default_rng(seed).permutation(len(test))[:persons]
    chosen = [test[i] for i in sorted(drawn)]
    recipe = predictor.recipe
    keys = gather(chosen, found.root, recipe, cache).keys
    cases = []
    for sample in read_samples(chosen, keys, cache, recipe.classes).values():
        batch, attention = predictor._batch(sample.features)  # the pipeline's own: text encoded with its attention kept
        # Attention, and the vectors of numbers, hang on the graph only where something below them wants a gradient.
        for below in (batch.audio, batch.text_statistics, batch.audio_statistics):
            below.requires_grad_(True)
        target = int(forward(predictor.network.classifier, batch).logits[0].argmax())
        right = target == sample.label
        cases.append(
            Case(
                person=sample.person,
                features=sample.features,
                batch=batch,
                attention=attention,
                target=target,
                right=right,
            )
        )
    return cases


def explain(classifier: TwoStreamClassifier, case: Case, target: int) -> tuple[TwoStreamRelevance, dict[str, float]]:
    output = forward(classifier, case.batch, keep=True)
    name = "the predicted class" if target == case.target else "another class"
    return relevance_of(output, target, name=name, text_encoder=case.attention), vector_shares(output, target)


def joined(relevance: TwoStreamRelevance) -> Tensor:
    return torch.cat([relevance.text, relevance.audio]).detach()


def scorer(predictor: SpeechPredictor, case: Case, *, again: bool = False) -> Score:
    """Probability of the explained class with some tokens only; `again`: the text encoder reads what is left, too."""
    batch, encoder = case.batch, predictor.encoders.text

    @torch.no_grad()
    def score(masks: Tensor) -> Tensor:
        n = len(masks)
        text, text_mask = batch.text.expand(n, -1, -1), batch.text_mask & masks[:, : case.n_text]
        if again:
            text = encoder(case.features.ids.expand(n, -1), text_mask).tokens.float()
        logits = predictor.network.classifier(
            text,
            text_mask,
            batch.audio.expand(n, -1, -1),
            batch.audio_mask & masks[:, case.n_text :],
            statistics=(batch.text_statistics.expand(n, -1), batch.audio_statistics.expand(n, -1)),
        ).logits
        return (logits / predictor.temperature).softmax(-1)[:, case.target]

    return score


def deletion(
    predictor: SpeechPredictor, cases: Sequence[Case], maps: Sequence[Tensor], part: str, *, again: bool = False
) -> dict[str, Any]:
    """Hold the maps' orders against random ones; an empty map orders nothing and is left out."""
    tests = []
    for case, relevance in zip(cases, maps, strict=True):
        valid = case.valid(part)
        if part != "words" and predictor.config.modality_dropout == 0:
            valid[-1] = False  # a stream must not run dry
        if float(relevance[valid].sum()) > 0:
            score = scorer(predictor, case, again=again)
            tests.append(DeletionCase(score=score, relevance=relevance, person=case.person, valid=valid))
    if not tests:
        return {"n_persons": 0, "n_empty_maps": len(cases), "beats_random": False}
    found = compare_with_random(
        tests, steps=STEPS, n_random=N_RANDOM, n_resamples=N_RESAMPLES, level=LEVEL, batched=True
    )
    return {"n_empty_maps": len(cases) - len(tests), **as_json(found)}


def as_json(found: Faithfulness) -> dict[str, Any]:
    margins = {
        name: {key: round(value, 5) for key, value in vars(margin).items()}
        for name, margin in (("random_minus_most", found.positive), ("least_minus_random", found.negative))
    }
    areas = {"most_first": found.most_first, "random": found.random, "least_first": found.least_first}
    return {
        "n_persons": found.n_persons,
        "mean_area": {name: round(float(values.mean()), 5) for name, values in areas.items()},
        **margins,
        "beats_random": found.positive.low > 0 and found.negative.low > 0,
    }


def correlations(cases: Sequence[Case], pairs: Sequence[Sequence[tuple[Tensor, Tensor]]]) -> dict[str, Any]:
    """Mean rank correlation of pairs of maps, a person's mean first, with a bootstrap over persons."""
    found: dict[str, Any] = {}
    for part in PARTS:
        values = []
        for case, of_person in zip(cases, pairs, strict=True):
            valid = case.valid(part)
            known = [rank(a[valid], b[valid]) for a, b in of_person]
            known = [value for value in known if np.isfinite(value)]
            if known:
                values.append(float(np.mean(known)))
        found[part] = interval(np.array(values))
    return found


def rank(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation; NaN where a map is flat (nothing speaks for the class) and orders nothing."""
    if float(a.max()) == float(a.min()) or float(b.max()) == float(b.min()):
        return float("nan")
    return float(spearmanr(a.numpy(), b.numpy()).statistic)


def interval(values: NDArray[np.float64]) -> dict[str, Any]:
    if not len(values):
        return {"mean": None, "low": None, "high": None, "n_persons": 0}
    drawn = np.random.default_rng(0).integers(len(values), size=(N_RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    numbers = {"mean": values.mean(), "low": low, "high": high}
    return {**{name: round(float(value), 4) for name, value in numbers.items()}, "n_persons": len(values)}


def redrawn(predictor: SpeechPredictor) -> Iterator[TwoStreamClassifier]:
    """The same network with weights drawn anew; what standardises the statistics is no weight and stays."""
    trained = predictor.network.classifier
    for seed in range(REDRAWN):
        torch.manual_seed(seed)
        fresh = TwoStreamClassifier(predictor.config).eval()
        for name, module in fresh.named_modules():
            if isinstance(module, StatisticsVector):
                module.load_state_dict({**module.state_dict(), **dict(trained.get_submodule(name).named_buffers())})
        yield fresh


def other_seeds(predictor: SpeechPredictor, weights: Path) -> Iterator[TwoStreamClassifier]:
    """The study's other fits of the same model: how much two trained maps agree at all. None where the study keeps one fit."""
    own = predictor.network.classifier.state_dict()
    for path in sorted((weights.parent / "fits" / "model").glob("seed-*/*/model.safetensors")):
        tensors = {name.removeprefix("classifier."): value.float() for name, value in load_file(path).items()}
        same_shape = {k: v.shape for k, v in tensors.items()} == {k: v.shape for k, v in own.items()}
        if same_shape and not all(torch.equal(own[name], value) for name, value in tensors.items()):
            other = TwoStreamClassifier(predictor.config).eval()
            other.load_state_dict(tensors)
            yield other


def against(
    classifiers: Iterator[TwoStreamClassifier], cases: Sequence[Case], maps: Sequence[Tensor]
) -> dict[str, Any]:
    """Correlate the maps with those of other classifiers for the same class."""
    others = list(classifiers)
    pairs = [
        [(own, joined(explain(other, case, case.target)[0])) for other in others]
        for case, own in zip(cases, maps, strict=True)
    ]
    return {"n_classifiers": len(others), **(correlations(cases, pairs) if others else {})}


def measure(
    predictor: SpeechPredictor, cases: Sequence[Case], weights: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    classifier, n_classes = predictor.network.classifier, len(predictor.recipe.classes)
    explained = [explain(classifier, case, case.target) for case in cases]
    maps = [joined(relevance) for relevance, _ in explained]
    flipped = [joined(explain(classifier, case, (case.target + 1) % n_classes)[0]) for case in cases]
    shares = np.array([relevance.modality_share.tolist() for relevance, _ in explained])
    vectors = {name: float(np.mean([of[name] for _, of in explained])) for name in explained[0][1]}
    rows: dict[str, Any] = {}
    for part in PARTS:
        say(f"deletion: {part}")
        rows[part] = deletion(predictor, cases, maps, part)
    say("deletion: words, text read again")
    rows["words, text read again"] = deletion(predictor, cases, maps, "words", again=True)
    say("deletion: the other class's map")
    wrong_map = deletion(predictor, cases, flipped, "both")
    say("correlations")
    ranks = {
        "two classes": correlations(cases, [[pair] for pair in zip(maps, flipped, strict=True)]),
        "weights drawn anew": against(redrawn(predictor), cases, maps),
        "other seeds of training": against(other_seeds(predictor, weights), cases, maps),
    }
    return {
        "verdicts": verdicts(rows, ranks),
        "explained": {
            "n_persons": len(cases),
            "classified_rightly": sum(case.right for case in cases),
            "classes": {
                name: sum(case.target == i for case in cases) for i, name in enumerate(predictor.recipe.classes)
            },
            "method": explained[0][0].method,
            "mean_modality_share": dict(zip(("text", "audio"), shares.mean(0).round(4).tolist(), strict=True)),
            "mean_vector_share": {name: round(value, 4) for name, value in vectors.items()},
        },
        "deletion": rows,
        "deletion_by_the_other_class": wrong_map,
        "rank_correlation": ranks,
    }


def verdicts(rows: dict[str, Any], ranks: dict[str, Any]) -> dict[str, Any]:
    """What was to be shown, each as true or false; a correlation counts as low where its whole interval is below 0.5."""
    found = {f"deletion beats random orders: {part}": row["beats_random"] for part, row in rows.items()}
    for text, name in (
        ("maps of two classes differ", "two classes"),
        ("map is lost with drawn weights", "weights drawn anew"),
    ):
        high = ranks[name]["both"]["high"]
        found[f"{text}: rank correlation below 0.5"] = high is not None and high < 0.5
    seeds = ranks["other seeds of training"].get("both")
    if seeds is not None:
        drawn = ranks["weights drawn anew"]["both"]["high"]
        found["trained seeds agree more than drawn weights"] = drawn is not None and seeds["low"] > drawn
    return found


def study(data: Path, weights: Path, cache: Path, persons: int, seed: int) -> dict[str, Any]:
    recipe = load_recipe("dementia")
    if not isinstance(recipe, SpeechRecipe):
        raise TypeError("a dementia recipe")
    folder = find(f"{weights.resolve()}")
    found = labelled_interviews(data)
    described = data / "dataset_description.json"
    about = json.loads(described.read_text("utf-8")) if described.is_file() else {}
    check_synthetic(folder.config, recipe.pipeline, bool(about.get("chiasm_phantom")))
    predictor = SpeechPredictor(recipe, folder, load_encoders(recipe, attention="eager"))
    if predictor.config.streams != "both":
        raise ValueError("a classifier of both streams")

    def say(text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    say("reading")
    cases = cases_of(found, predictor, FeatureCache(cache), persons, seed)
    numbers = measure(predictor, cases, weights.resolve(), say)
    made_by = {name: about[name] for name in ("seed", "strength", "synthesiser", "train", "test") if name in about}
    return {
        "data": {"layout": found.layout, "phantom": bool(about.get("chiasm_phantom")), **made_by},
        "classifier": {
            "sha256": folder.sha256,
            "training": folder.config["training"],
            "parameters": folder.config["parameters"],
        },
        "settings": {"steps": STEPS, "random_orders": N_RANDOM, "resamples": N_RESAMPLES, "level": LEVEL, "seed": seed},
        **numbers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument(
        "weights", type=Path, metavar="WEIGHTS", help="STUDY/weights of `chiasm train dementia DATA STUDY`"
    )
    parser.add_argument("--cache", type=Path, help="features (default: those of the study)")
    parser.add_argument("--persons", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0, help="of the draw of test persons")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    cache = arguments.cache or arguments.weights.resolve().parent / "features"
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/dementia/explanations.py DATA STUDY/weights "
        f"--persons {arguments.persons} --seed {arguments.seed}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {name: version(name) for name in ("chiasm", "torch", "transformers", "numpy", "scipy")},
        **study(arguments.data.resolve(), arguments.weights, cache, arguments.persons, arguments.seed),
    }
    result["seconds"] = {"wall": round(time.perf_counter() - start, 1), "cpu": round(time.process_time() - cpu, 1)}
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
