"""What others have published on the data sets that are read here, to stand beside own runs and never among them."""

from __future__ import annotations

from collections.abc import Sequence

from .study_schema import PublishedEntry

_ADRESS, _ADRESSO = "ADReSS, test", "ADReSSo, test"
_N_ADRESS, _N_ADRESSO = 48, 71
_ILIAS = "Ilias and Askounis"


def _row(
    system: str,
    accuracy: float,
    f1: float | None,
    source: str,
    *,
    data: str = _ADRESS,
    n_test: int | None = _N_ADRESS,
    protocol: str = "test set of the challenge",
    read: str = "abstract",
) -> PublishedEntry:
    return {
        "system": system, "data": data, "accuracy": accuracy, "f1": f1, "n_test": n_test, "protocol": protocol,
        "source": source, "read": read,
    }  # fmt: skip


_BERT = "Balagopalan et al., To BERT or not to BERT, Interspeech 2020"
_BASELINE = "Luz et al., The ADReSS Challenge, Interspeech 2020"
_COGNIALIGN = "CogniAlign, arXiv:2506.01890, 2025"

PUBLISHED: dict[str, Sequence[PublishedEntry]] = {
    "adress": (
        _row("BERT and DeiT, context attention, optimal transport", 0.9125, 0.9106,
             f"{_ILIAS}, Knowledge-Based Systems, 2023"),
        _row("RoBERTa and ViT, cross-attention", 0.9001, None, "Altinok, TSD 2024", read="publication"),
        _row("BERT and ViT, co-attention", 0.9000, None, f"{_ILIAS}, Frontiers in Aging Neuroscience, 2022"),
        _row("BERT", 0.8750, None, f"{_ILIAS}, IEEE J. Biomedical and Health Informatics, 2022"),
        _row("BERT and ViT, gated self-attention, tensor fusion", 0.8625, 0.8548, f"{_ILIAS} et al., arXiv:2211.04368, 2022"),
        _row("BERT", 0.833, 0.84, _BERT, read="full text"),
        _row("support vectors on ten features", 0.813, 0.82, _BERT, read="full text"),
        _row("challenge baseline, words", 0.750, None, _BASELINE, read="not checked"),
        _row("challenge baseline, sound", 0.625, 0.67, _BASELINE, read="publication"),
    ),
    "adresso": (
        _row("challenge baseline", 0.7887, None, "Luz et al., The ADReSSo Challenge, Interspeech 2021", data=_ADRESSO,
             n_test=_N_ADRESSO, read="publication"),
        _row("aligned words and sound", 0.9036, None, _COGNIALIGN, data="ADReSSo, training", n_test=None, protocol="5 folds"),
        _row("aligned words and sound", 0.8735, None, _COGNIALIGN, data="ADReSSo, training", n_test=None,
             protocol="leave one person out"),
    ),
}  # fmt: skip
"""By layout, as `data.datasets.interviews.layout_of` names it. The intervals of the page are computed from n."""
