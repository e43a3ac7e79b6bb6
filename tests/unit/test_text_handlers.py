"""Texts through a tiny checkpoint that is made here: what comes out is what the checkpoint alone would say."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="handlers of texts need serving[text]")

from handlers.embeddings import EmbeddingsHandler  # noqa: E402
from handlers.text import Texts, bucket_of, groups  # noqa: E402
from handlers.text_classification import TextClassificationHandler  # noqa: E402
from serving import BadRequest, Request  # noqa: E402
from serving.errors import ModelError  # noqa: E402
from serving.request import Response  # noqa: E402
from serving.testing import Client  # noqa: E402

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
WORDS = [f"w{i}" for i in range(20)]


def checkpoint(folder: Path, kind: str, **config: Any) -> Path:
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    transformers.BertTokenizerFast.from_pretrained(folder, model_max_length=64).save_pretrained(folder)
    torch.manual_seed(0)
    settings = transformers.BertConfig(vocab_size=25, max_position_embeddings=64, **SIZE, **config)
    getattr(transformers, kind)(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {0: "low", 1: "mid", 2: "high"}
    return checkpoint(tmp_path_factory.mktemp("c") / "model", "BertForSequenceClassification", id2label=labels)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("e") / "model", "BertModel")


def ask(client: Client, body: object, kind: str = "application/json") -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return json.loads(bytes(client.invoke(data, kind).body))


def text(words: int) -> str:
    return " ".join(WORDS[i % 20] for i in range(words))


def test_scores_are_those_of_the_checkpoint_alone(classifier: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(classifier)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    texts = [text(n) for n in (1, 40, 3, 17, 9)]
    with torch.no_grad():
        alone = [model(**tokenizer(one, return_tensors="pt")).logits.softmax(-1)[0] for one in texts]
    with Client(TextClassificationHandler, classifier, topk=3) as client:
        found = ask(client, texts)
    for answer, scores in zip(found, alone, strict=True):
        assert [one["label"] for one in answer] == [
            model.config.id2label[int(i)] for i in scores.argsort(descending=True)
        ]
        assert [one["score"] for one in answer] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)


def test_one_text_has_one_answer_in_every_form(classifier: Path) -> None:
    with Client(TextClassificationHandler, classifier) as client:
        one = ask(client, b"w1 w2", "text/plain")
        assert set(one) == {"label", "score"}
        assert ask(client, "w1 w2") == ask(client, {"inputs": "w1 w2"}) == ask(client, {"text": "w1 w2"}) == one
        assert ask(client, ["w1 w2"]) == ask(client, {"instances": ["w1 w2"]}) == [one]


def test_requests_of_unequal_length_get_their_own_answers(classifier: Path) -> None:
    bodies = [json.dumps(one).encode() for one in (text(3), [text(30), text(2)], text(12))]
    with Client(TextClassificationHandler, classifier) as client:
        together = [one.body for one in client.batch([Request(b) for b in bodies]) if isinstance(one, Response)]
        for body, answer in zip(bodies, together, strict=True):
            assert scores(json.loads(bytes(answer))) == pytest.approx(scores(ask(client, body)), abs=1e-5)


def scores(answer: Any) -> list[float]:
    return [one["score"] for one in (answer if isinstance(answer, list) else [answer])]


def test_labels_of_a_file_replace_those_of_the_checkpoint(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    (tmp_path / "model").symlink_to(classifier)
    with Client(TextClassificationHandler, tmp_path, checkpoint="model", labels="names.txt", topk=9) as client:
        assert sorted(one["label"] for one in ask(client, "w1")) == ["a", "b", "c"]


def test_independent_labels_do_not_add_up(tmp_path: Path) -> None:
    words = {"num_labels": 3, "problem_type": "multi_label_classification"}
    folder = checkpoint(tmp_path / "model", "BertForSequenceClassification", **words)
    with Client(TextClassificationHandler, folder, topk=3) as client:
        assert sum(one["score"] for one in ask(client, "w1")) != pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"3", "a text or a list of texts"),
        (b'{"query": "w1"}', "a text or a list of texts"),
        (b'["w1", 2]', "a text or a list of texts"),
        (b"[]", "0 texts; allowed: 1 to 4"),
        (b'["a", "b", "c", "d", "e"]', "5 texts; allowed: 1 to 4"),
        (b"{", "no JSON"),
        (json.dumps(text(99)).encode(), "text 1 has 101 tokens; allowed: 1 to 64"),
    ],
)
def test_what_is_no_text_is_refused(classifier: Path, body: bytes, message: str) -> None:
    client = Client(TextClassificationHandler, classifier, max_texts=4, truncate=False)
    with pytest.raises(BadRequest, match=message):
        client.invoke(body)


def test_long_texts_are_cut_where_that_is_allowed(classifier: Path) -> None:
    with Client(TextClassificationHandler, classifier, max_length=10) as client:
        assert ask(client, text(99)) == ask(client, text(8))


def test_a_checkpoint_without_a_head_is_refused_and_so_is_none(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no weights for classifier"):
        Client(TextClassificationHandler, encoder)
    with pytest.raises(ModelError, match="no checkpoint of transformers"):
        Client(TextClassificationHandler, tmp_path)


def test_pickled_weights_are_not_read(encoder: Path, tmp_path: Path) -> None:
    for path in encoder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="AutoModel cannot load it"):
        Client(EmbeddingsHandler, tmp_path)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_vectors_are_pooled_over_their_own_tokens_only(encoder: Path, pooling: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    model = transformers.AutoModel.from_pretrained(encoder).eval()
    texts = [text(n) for n in (2, 14, 5)]
    expected = []
    for one in texts:
        with torch.no_grad():
            states = model(**tokenizer(one, return_tensors="pt")).last_hidden_state[0]
        vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        expected.append((vector / vector.norm()).tolist())
    with Client(EmbeddingsHandler, encoder, pooling=pooling) as client:
        assert np.allclose(ask(client, texts), expected, atol=1e-5)
        assert np.allclose(ask(client, texts[1]), expected[1], atol=1e-5)
        body = client.invoke(json.dumps(texts).encode(), accept="application/x-npy").body
        assert np.allclose(np.load(io.BytesIO(bytes(body))), expected, atol=1e-5)


def test_a_sentence_transformers_folder_says_how_to_pool(encoder: Path, tmp_path: Path) -> None:
    for path in encoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "1_Pooling").mkdir()
    settings = tmp_path / "1_Pooling" / "config.json"
    settings.write_text('{"word_embedding_dimension": 16, "pooling_mode_cls_token": true}')
    with Client(EmbeddingsHandler, tmp_path) as said, Client(EmbeddingsHandler, encoder, pooling="cls") as given:
        assert ask(said, "w1 w2") == ask(given, "w1 w2")
    settings.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError, match="pooling_mode_max_tokens"):
        Client(EmbeddingsHandler, tmp_path)


def test_openai_embeddings(encoder: Path) -> None:
    def post(client: Client, **wish: Any) -> Any:
        request = Request(json.dumps(wish).encode(), "application/json", path="/v1/embeddings")
        [outcome] = client.batch([request])
        if not isinstance(outcome, Response):
            raise outcome
        return json.loads(bytes(outcome.body))

    with Client(EmbeddingsHandler, encoder) as client:
        plain = post(client, model="m", input=["w1 w2", "w3"])
        assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
        assert [one["index"] for one in plain["data"]] == [0, 1]
        coded = post(client, model="m", input="w1 w2", encoding_format="base64")["data"][0]["embedding"]
        assert np.allclose(np.frombuffer(base64.b64decode(coded), np.float32), plain["data"][0]["embedding"], atol=1e-5)
        with pytest.raises(BadRequest, match="dimensions is 3; allowed: 16"):
            post(client, input="w1", dimensions=3)
        with pytest.raises(BadRequest, match="encoding_format is 'int8'"):
            post(client, input="w1", encoding_format="int8")


def test_less_than_half_of_what_is_computed_is_padding() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).lognormal(3.5, 1, 500).clip(1, 512)]
    computed = sum(len(group) * max(lengths[i] for i in group) for group in groups(lengths, 32))
    long = [n for n in lengths if n > 16]
    assert sorted(i for group in groups(lengths, 32) for i in group) == list(range(500))
    assert computed < 2 * sum(long) + 16 * (500 - len(long))
    assert [bucket_of(n) for n in (1, 16, 17, 32, 33, 512)] == [16, 16, 32, 32, 64, 512]


def test_samples_of_one_bucket_share_a_batch(encoder: Path) -> None:
    handler = EmbeddingsHandler()
    assert handler.bucket(Texts([[1] * 17], True)) == handler.bucket(Texts([[1] * 30, [1]], False))
    assert handler.bucket(Texts([[1] * 17], True)) != handler.bucket(Texts([[1] * 16], True))


def test_parameters_are_honoured_or_refused_by_name(classifier: Path, encoder: Path) -> None:
    def body(**parameters: Any) -> bytes:
        return json.dumps({"inputs": "w1 w2", "parameters": parameters}).encode()

    with Client(TextClassificationHandler, classifier) as texts, Client(EmbeddingsHandler, encoder) as vectors:
        assert len(texts.invoke(body(top_k=2)).json()) == 2
        assert "label" in texts.invoke(body()).json()
        for client, parameters, said in (
            (texts, {"top": 2}, "parameters has 'top'; known: top_k"),
            (texts, {"top_k": 0}, "top_k is 0; allowed: 1 to 1000"),
            (texts, {"top_k": True}, "top_k is True"),
            (vectors, {"top_k": 2}, "parameters has 'top_k'; this model has none"),
        ):
            with pytest.raises(BadRequest, match=said):
                client.invoke(body(**parameters))
        with pytest.raises(BadRequest, match="parameters is a JSON object"):
            texts.invoke(b'{"inputs": "w1", "parameters": 3}')
