"""Text, token by token: sampling, stops, forms, and the same words whatever keeps the state."""

from __future__ import annotations

import json
import string
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from handlers.generation import GenerationHandler
from handlers.sampling import Sampling, Text, read_sampling
from serving import BadRequest, Request, Unavailable
from serving.errors import ModelError
from serving.request import Response
from serving.testing import Client

LETTERS = string.ascii_lowercase + " ."


class Alphabet(nn.Module):
    """ids [1, n] to logits [1, n, 28] by which the next letter is the one that follows in the alphabet."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot((ids + 1) % 28, 28).float() * 20


class Letters:
    """A tokenizer as small as can be."""

    eos_token_id = 27
    chat_template = None

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [LETTERS.index(one) for one in text if one in LETTERS]}

    def decode(self, ids: list[int]) -> str:
        return "".join(LETTERS[id] for id in ids)


class Speller(GenerationHandler):
    """Any module that gives logits is served so: by two methods."""

    def load_tokenizer(self, folder: Path) -> Any:
        return Letters()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit is old, its files are many
        torch.jit.save(torch.jit.script(Alphabet()), str(tmp_path / "model.pt"))
    return tmp_path


@pytest.fixture
def speller(folder: Path) -> Client:
    return Client(Speller, folder, temperature=0)


def ask(client: Client, **wish: Any) -> Any:
    return json.loads(bytes(client.invoke(json.dumps(wish).encode()).body))


def test_a_module_that_gives_logits_is_enough(speller: Client) -> None:
    answer = ask(speller, prompt="ab", max_tokens=3)
    assert answer == {
        "text": "cde",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
    }
    assert ask(speller, inputs="wx", parameters={"max_new_tokens": 9}) == {
        "text": "yz ",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6},
    }


@pytest.mark.parametrize(
    ("stop", "text", "reason"),
    [("e", "cd", "stop"), (["xx", "fg"], "cde", "stop"), (["gh", "efz"], "cdef", "stop"), ("zz", "cdefgh", "length")],
)
def test_a_stop_ends_the_text_and_is_no_part_of_it(speller: Client, stop: Any, text: str, reason: str) -> None:
    answer = ask(speller, prompt="ab", max_tokens=6, stop=stop)
    assert (answer["text"], answer["finish_reason"]) == (text, reason)


def test_the_form_is_what_the_client_accepts(speller: Client) -> None:
    def pieces(accept: str, **more: Any) -> Response:
        return speller.invoke(json.dumps({"prompt": "ab", "max_tokens": 2, **more}).encode(), accept=accept)

    plain = pieces("text/plain")
    assert (bytes(plain.body), plain.content_type) == (b"cd", "text/plain; charset=utf-8")
    usage = {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    records = [{"text": "c"}, {"text": "d"}, {"text": "", "finish_reason": "length", "usage": usage}]
    lines = pieces("application/x-ndjson")
    assert lines.content_type == "application/x-ndjson"
    assert [json.loads(line) for line in bytes(lines.body).splitlines()] == records
    for answer in (pieces("text/event-stream"), pieces("", stream=True), pieces("application/json", stream=True)):
        assert answer.content_type == "text/event-stream"
        assert [json.loads(one[6:]) for one in bytes(answer.body).decode().strip().split("\n\n")] == records


def test_a_bare_text_is_a_prompt(speller: Client) -> None:
    assert bytes(speller.invoke(b"vw", "text/plain", "text/plain").body) == b"xyz "


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, "expected a text in prompt or inputs"),
        ({"prompt": 3}, "expected a text"),
        ({"prompt": ""}, "0 tokens"),
        ({"prompt": "a" * 64}, "64 tokens; allowed: 1 to 9"),
        ({"prompt": "a", "temperature": -1}, "temperature is -1; allowed: 0 to 100"),
        ({"prompt": "a", "temperature": "hot"}, "temperature is 'hot'"),
        ({"prompt": "a", "top_k": 1.5}, "top_k is 1.5"),
        ({"prompt": "a", "top_p": 2}, "top_p is 2"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens is 0; allowed: 1 to"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens is True"),
        ({"prompt": "a", "stop": [""]}, "stop is a text"),
        ({"prompt": "a", "stop": ["x"] * 17}, "up to 16"),
        ({"prompt": "a", "seed": 1.5}, "seed is 1.5"),
        ({"prompt": "a", "n": 2}, "n is not supported"),
        ({"prompt": "a", "beam_width": 2}, "beam_width is not supported"),
        ({"prompt": "a", "stream": "yes"}, "stream is true or false"),
        ({"prompt": "a", "parameters": 3}, "and so are its parameters"),
        ({"messages": []}, "messages is a list"),
        ({"messages": [{"role": "user"}]}, "messages is a list"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(folder: Path, wish: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        ask(Client(Speller, folder, context=10), **wish)


def test_what_is_neutral_may_be_said(speller: Client) -> None:
    assert ask(speller, prompt="ab", max_tokens=1, n=1, presence_penalty=0, top_k=None, user="me")["text"] == "c"


def test_prompt_and_answer_stay_within_the_context(folder: Path) -> None:
    assert ask(Client(Speller, folder, context=6, temperature=0), prompt="abcd", max_tokens=50)["text"] == "ef"


def test_there_are_no_more_answers_at_a_time_than_allowed(folder: Path) -> None:
    client = Client(Speller, folder, max_running=2, temperature=0)
    request = Request(b'{"prompt": "ab", "max_tokens": 2}', "application/json")
    outcomes = client.batch([request] * 4)
    assert [type(one) for one in outcomes] == [Response, Response, Unavailable, Unavailable]
    assert isinstance(client.batch([request])[0], Response)


def test_chats_are_answered_in_the_form_of_openai(speller: Client) -> None:
    def post(**wish: Any) -> Response:
        body = json.dumps({"messages": [{"role": "user", "content": "ab"}], "max_tokens": 2, **wish}).encode()
        [outcome] = speller.batch([Request(body, "application/json", request_id="7", path="/v1/chat/completions")])
        assert isinstance(outcome, Response)
        return outcome

    whole = json.loads(bytes(post(model="m").body))
    assert (whole["id"], whole["object"], whole["model"]) == ("chatcmpl-7", "chat.completion", "m")
    # The prompt ends with "assistant:", of which the tokenizer knows all but the colon.
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "uv"}
    *chunks, done = bytes(post(stream=True).body).decode().strip().split("\n\n")
    deltas = [json.loads(one[6:])["choices"][0]["delta"] for one in chunks]
    assert (deltas, done) == ([{"role": "assistant", "content": "u"}, {"content": "v"}, {}], "data: [DONE]")


def test_options_are_checked_when_the_model_loads(folder: Path) -> None:
    with pytest.raises(ModelError, match="context is 1; allowed: 2 to"):
        Client(Speller, folder, context=1)
    with pytest.raises(ModelError, match=r"\[options\] temperature is -1"):
        Client(Speller, folder, temperature=-1)


def choose(sampling: Sampling, logits: list[float], draws: int = 300) -> set[int]:
    random = torch.Generator().manual_seed(0)
    return {sampling.choose(torch.tensor(logits), random) for _ in range(draws)}


def test_how_the_next_token_is_chosen() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().tolist()
    assert choose(Sampling(), logits) == {0, 1, 2, 3}
    assert choose(Sampling(temperature=0), logits) == {0}
    assert choose(Sampling(top_k=2), logits) == {0, 1}
    assert choose(Sampling(top_k=9), logits) == {0, 1, 2, 3}
    assert choose(Sampling(top_p=0.7), logits) == {0, 1}
    assert choose(Sampling(top_p=0.0), logits) == {0}
    assert choose(Sampling(temperature=0.05), logits) == {0}


def test_the_same_seed_gives_the_same_text(folder: Path) -> None:
    client = Client(Speller, folder, temperature=30)
    first, second, other = (ask(client, prompt="a", seed=seed, max_tokens=20)["text"] for seed in (1, 1, 2))
    assert first == second != other


def test_what_a_request_says_wins_over_what_is_usual() -> None:
    usual = Sampling(max_tokens=5, temperature=0.5, stop=("x",))
    assert read_sampling({}, usual) == usual
    assert read_sampling({"max_completion_tokens": 7, "top_k": 3, "stop": None}, usual) == Sampling(
        7, 0.5, 3, 1.0, ("x",)
    )


@given(st.text(max_size=30), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_text_in_pieces_is_the_text_up_to_the_first_stop(text: str, stops: list[str]) -> None:
    """Tokens are bytes here, so that characters come in parts."""
    data = list(text.encode("utf-8", "surrogatepass")) if not has_surrogates(text) else []
    text = bytes(data).decode()
    spelled = Text(lambda ids: bytes(ids).decode("utf-8", "replace"), stops)
    found = ""
    for id in data:
        found += spelled.add(id)
        if spelled.is_stopped:
            break
    found += spelled.rest()
    ends = sorted((text.find(one) + len(one), text.find(one)) for one in stops if one in text)
    if "\ufffd" not in text:
        assert found == (text[: ends[0][1]] if ends else text)


def has_surrogates(text: str) -> bool:
    return any("\ud800" <= one <= "\udfff" for one in text)


def test_a_checkpoint_says_the_same_with_its_cache_as_without(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="checkpoints need serving[text]")
    torch.manual_seed(0)
    size = {"n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=28, bos_token_id=27, eos_token_id=27, **size)
    )
    model.save_pretrained(tmp_path)
    client = Client(Speller, tmp_path, temperature=0)
    ids = Letters()("hello")["input_ids"]
    with torch.inference_mode():
        for _ in range(10):
            ids.append(int(model.eval()(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = Letters().decode(ids[5:]).partition(".")[0]
    assert ask(client, prompt="hello", max_tokens=10)["text"] == expected
