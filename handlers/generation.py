"""GenerationHandler: a prompt to text, token by token, by a causal language model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from handlers.built import load_module
from handlers.checkpoint import cached_step, load_checkpoint, load_pretrained
from handlers.forms import Usage
from handlers.options import dtype as dtype_of
from handlers.options import overridable, whole
from handlers.prompts import CHAT, Prompt, choose_form, messages_of, prompt_of, read_wish
from handlers.sampling import Sampling, Text, read_sampling
from serving import BadRequest, Handler, Request, StreamingResponse, Unavailable
from serving.errors import ModelError


class GenerationHandler(Handler):
    """A handler of prompts: ``{"prompt" or "inputs": "…", …}`` with the fields of Sampling, or plain text.

    The fields may be below ``parameters``; ``/v1/chat/completions`` takes chats. The answer is one JSON object, or by
    ``Accept`` or ``"stream": true`` a stream of events, JSON Lines or text. Requests take turns, a token each. A folder
    has a checkpoint of ``transformers``, or its tokenizer and a module of ids [1, n] to logits [1, n, vocabulary].
    """

    records = "one"
    post_paths = (CHAT,)

    @overridable
    def load(
        self,
        model_dir: Path,
        device: str,
        checkpoint: str = ".",
        context: int | None = None,
        max_running: int = 32,
        max_tokens: int = 256,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        dtype: str = "float32",
    ) -> None:
        """Load. ``context``: most tokens of prompt and answer together, by default the model's limit; beyond
        ``max_running`` answers at a time requests get 503. The rest are defaults of requests. Raises ModelError."""
        self.device = device
        self.kind = dtype_of(dtype, "float32", "bfloat16", "float16")
        self.tokenizer = self.load_tokenizer(model_dir / checkpoint)
        self.model = self.load_model(model_dir / checkpoint).to(device)
        limit = getattr(getattr(self.model, "config", None), "max_position_embeddings", None) or 1 << 20
        self.context = limit if context is None else whole("context", context, 2, limit)
        self.max_running = whole("max_running", max_running, 1, 1 << 16)
        usual = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p}
        try:
            self.usual = read_sampling(usual, Sampling())
        except BadRequest as exc:
            raise ModelError(f"[options] {exc}") from exc
        self.ends = self.end_ids()
        self.running: WeakSet[Any] = WeakSet()  # async generators

    def load_tokenizer(self, folder: Path) -> Any:
        """Return a tokenizer with ``decode``, ``eos_token_id``, ``chat_template``; a call has the key ``input_ids``."""
        return load_pretrained("AutoTokenizer", folder)

    def load_model(self, folder: Path) -> Any:
        if (folder / "config.json").is_file():
            return load_checkpoint("AutoModelForCausalLM", folder, self.kind)
        return load_module(folder, self.device, None, False)[0]

    def end_ids(self) -> set[int]:
        """Return the tokens that end an answer."""
        config = getattr(self.model, "generation_config", None)
        found = getattr(config, "eos_token_id", None)
        found = self.tokenizer.eos_token_id if found is None else found
        return set(found if isinstance(found, list) else [] if found is None else [found])

    def decode(self, request: Request) -> Prompt:
        wish = read_wish(request)
        ids = self.ids(wish)
        if not 0 < len(ids) < self.context:
            raise BadRequest(f"the prompt has {len(ids)} tokens; allowed: 1 to {self.context - 1}")
        return Prompt(ids, read_sampling(wish, self.usual), choose_form(wish, request))

    def ids(self, wish: dict[str, Any]) -> list[int]:
        if "messages" not in wish:
            return list(self.tokenizer(prompt_of(wish))["input_ids"])
        # A template writes the special tokens by itself.
        text = self.chat_text(messages_of(wish))
        return list(self.tokenizer(text, add_special_tokens=not self.tokenizer.chat_template)["input_ids"])

    def chat_text(self, messages: list[dict[str, str]]) -> str:
        """Return the prompt by the checkpoint's template; without one, a line for each message."""
        if self.tokenizer.chat_template:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return "".join(f"{one['role']}: {one['content']}\n" for one in messages) + "assistant:"

    def predict(self, batch: list[Prompt]) -> Any:
        return batch  # the work is done token by token, in ``pieces``

    def encode(self, output: Any, request: Request) -> Any:
        # An ended generator has no frame, though it may exist until garbage collection.
        if sum(one.ag_frame is not None for one in self.running) >= self.max_running:
            raise Unavailable(f"{self.max_running} answers are being written; no more at a time")
        chunks = self.pieces(output)
        self.running.add(chunks)
        return StreamingResponse(chunks, output.form.content_type)

    async def pieces(self, prompt: Prompt) -> AsyncGenerator[str, None]:
        usage = Usage(len(prompt.ids))
        text, reason = Text(self.tokenizer.decode, prompt.sampling.stop), "length"
        for id in self.tokens(prompt):
            usage.completion_tokens += 1
            if id in self.ends:
                reason = "stop"
                break
            if chunk := prompt.form.encode(text.add(id)):
                yield chunk
            if text.is_stopped:
                reason = "stop"
                break
            await asyncio.sleep(0)  # the others' turn
        yield prompt.form.encode(text.rest()) + prompt.form.end(reason, usage)

    def tokens(self, prompt: Prompt) -> Iterator[int]:
        """Yield the ids of the answer, as many as fit, including an end token."""
        random = torch.Generator()
        random.seed() if prompt.sampling.seed is None else random.manual_seed(prompt.sampling.seed)
        new, state = torch.tensor([prompt.ids], device=self.device), None
        for _ in range(min(prompt.sampling.max_tokens, self.context - len(prompt.ids))):
            with torch.inference_mode():
                logits, state = self.step(new, state)
                id = prompt.sampling.choose(logits.float().cpu(), random)
            yield id
            new = torch.tensor([[id]], device=self.device)

    def step(self, new: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Run ``new`` ids [1, n] after ``state``, None at first. Returns logits [vocabulary] and the next state.

        The state is a checkpoint's keys and values, or all ids so far for a module.
        """
        if hasattr(self.model, "config"):
            return cached_step(self.model, new, state)
        ids = new if state is None else torch.cat([state, new], 1)
        return self.model(ids)[0, -1], ids
