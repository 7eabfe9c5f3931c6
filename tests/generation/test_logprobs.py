"""Log-probabilities of texts and prompts, scores and classifications, against plain passes."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.patience import until
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama
from edgellama.generation.decoding.logprobs import PromptLogprobs
from edgellama.generation.results import TokenLogprob
from edgellama.quant.errors import (
    ContextLengthError,
    EdgellamaError,
    GenerationCancelled,
    InvalidOptionError,
)

PROMPT = "The capital of France is"
GREEDY: Any = {"temperature": 0, "max_tokens": 6}


@pytest.fixture(scope="module", params=["real", "window"])
def llama(request: Any, smollm2_path: Path, tmp_path_factory: Any) -> Iterator[Llama]:
    """The starter model, and a tiny one whose steps are many and whose window is short."""
    path = smollm2_path
    if request.param == "window":
        path = tmp_path_factory.mktemp("logprobs") / "tiny.gguf"
        write_tiny_llama(path, TinyLlama(context_length=1200, sliding_window=150))
    with Llama(path, context_length=1200, exact=True) as llama:
        yield llama


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[Llama]:
    """The starter model."""
    with Llama(smollm2_path, context_length=256) as llama:
        yield llama


def plain_logprobs(llama: Llama, tokens: Sequence[int]) -> Any:
    """log softmax of all positions (n, vocab_size), in one pass without anything else."""
    engine: Any = llama._engine
    cache = engine.new_cache(len(tokens))
    logits = engine.forward(list(tokens), cache, logits="all").astype(np.float64)
    cache.close()
    largest = logits.max(axis=1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))


def check(found: TokenLogprob | None, token: int, row: Any, count: int) -> None:
    """It is the token's, and the alternatives are the ``count`` likeliest, in order."""
    assert found is not None
    assert found.token == token
    assert found.logprob == pytest.approx(row[token], abs=1e-4)
    likeliest = np.argsort(-row, kind="stable")[:count]
    assert [each.token for each in found.alternatives] == likeliest.tolist()
    expected = pytest.approx(row[likeliest], abs=1e-4)
    assert [each.logprob for each in found.alternatives] == expected


def test_of_a_text_and_its_prompt(llama: Llama) -> None:
    """Each is log softmax of the model's own logits, whatever sampling does to them."""
    length = 500 if llama.config.sliding_window else 24
    prompt = llama.tokenizer.encode("once upon a time there was a llama " * 30)[:length]
    options: Any = {"temperature": 1.4, "seed": 2, "repeat_penalty": 1.5, "max_tokens": 12}
    options |= {"banned": ["e"], "ignore_eos": True}
    with llama.stream(prompt, logprobs=3, prompt_logprobs=2, **options) as stream:
        chunks = list(stream)
    result = stream.result
    rows = plain_logprobs(llama, [*prompt, *result.tokens])
    assert result.logprobs is not None and result.prompt_logprobs is not None
    assert len(result.logprobs) == len(result.tokens) == 12
    for place, (found, token) in enumerate(zip(result.logprobs, result.tokens, strict=True)):
        check(found, token, rows[len(prompt) - 1 + place], 3)
    assert result.prompt_logprobs[0] is None
    assert len(result.prompt_logprobs) == len(prompt)
    for place in range(1, len(prompt)):
        check(result.prompt_logprobs[place], prompt[place], rows[place - 1], 2)
    for found in result.logprobs:
        assert found.token_bytes.decode(errors="replace") == found.text
    shown = [chunk.logprobs for chunk in chunks if chunk.token is not None]
    assert shown == list(result.logprobs)
    plain = llama.generate(prompt, **options)
    assert (plain.tokens, plain.logprobs, plain.prompt_logprobs) == (result.tokens, None, None)
    assert result.usage.cached_tokens == 0


def test_in_batches_and_sessions(llama: Llama) -> None:
    """They are the same in a batch, and after a text whose tokens a session still holds."""
    prompt = llama.tokenizer.encode("once upon a time")
    options: Any = {**GREEDY, "logprobs": 1, "prompt_logprobs": 0}
    alone = llama.generate(prompt, **options)
    for result in llama.generate_batch([prompt] * 2, **options):
        assert (result.logprobs, result.prompt_logprobs) == (
            alone.logprobs,
            alone.prompt_logprobs,
        )
    with llama.session() as session:
        session.generate(prompt, **GREEDY)
        again = session.generate(prompt, **options)
        assert (again.logprobs, again.prompt_logprobs) == (alone.logprobs, alone.prompt_logprobs)
        only = session.generate(prompt, max_tokens=0, prompt_logprobs=0)
        assert only.prompt_logprobs == alone.prompt_logprobs
        assert session.generate(prompt, **GREEDY).tokens == alone.tokens


def test_a_score_is_the_sum_of_its_tokens(llama: Llama) -> None:
    """Alone and behind a prompt, of text and of tokens, however much of it is cached."""
    before = llama.tokenizer.encode("once upon a time there was a llama " * 20)[
        : 200 if llama.config.sliding_window else 40
    ]
    text = llama.tokenizer.encode("once upon another time", add_bos=False)
    rows = plain_logprobs(llama, [*before, *text])
    expected = [rows[len(before) - 1 + n][token] for n, token in enumerate(text)]
    for _ in range(2):
        score = llama.score(text, before, alternatives=1)
        assert [each.token for each in score.tokens] == text
        assert score.logprob == pytest.approx(sum(expected), abs=1e-3)
        assert score.perplexity == pytest.approx(math.exp(-sum(expected) / len(text)), rel=1e-4)
        assert all(len(each.alternatives) == 1 for each in score.tokens)
    alone = llama.score(before)
    rated = sum(rows[n][token] for n, token in enumerate(before[1:]))
    assert alone.logprob == pytest.approx(rated, abs=1e-2)
    assert asyncio.run(llama.score_async(text, before)).logprob == pytest.approx(score.logprob)


def test_what_has_no_token_to_score(smollm2: Llama) -> None:
    """An empty text and one that becomes a token with its prompt are told apart."""
    with pytest.raises(InvalidOptionError, match="the text is empty"):
        smollm2.score("", "hel")
    with pytest.raises(InvalidOptionError, match="prompt and text are one token together"):
        smollm2.score("lo", "hel")


def test_choices_count_with_all_their_tokens(llama: Llama) -> None:
    """Probabilities are softmax over the scores of whole choices, which score gives, too."""
    prompt = "once upon a time there was"
    choices = [" a llama", " a", " the time that was a llama"]
    scores = [llama.score(choice, prompt) for choice in choices]
    for normalize in ("sum", "mean"):
        found = llama.classify(prompt, choices, normalize=normalize)  # type: ignore[arg-type]
        rated = np.array(
            [score.logprob / (len(score.tokens) if normalize == "mean" else 1) for score in scores]
        )
        weights = np.exp(rated - rated.max())
        assert list(found.probabilities) == choices
        expected = pytest.approx((weights / weights.sum()).tolist(), abs=1e-4)
        assert list(found.probabilities.values()) == expected
        assert found.best == choices[int(weights.argmax())]
    expected = pytest.approx([score.logprob for score in scores], abs=1e-3)
    assert list(found.logprobs.values()) == expected
    same = asyncio.run(llama.classify_async(prompt, choices, normalize="mean"))
    assert same.best == found.best


def test_a_real_model_knows(smollm2: Llama) -> None:
    """It classifies, scores what is likely higher, and tells texts of tokens."""
    found = smollm2.classify(
        "Review: I loved every minute of it.\nSentiment:", [" positive", " negative"]
    )
    assert found.best == " positive"
    assert sum(found.probabilities.values()) == pytest.approx(1)
    asked = [{"role": "user", "content": "Is fire hot or cold? Answer in one word."}]
    of_chat = smollm2.classify(asked, ["Hot", "Cold"])
    with smollm2.chat() as chat:
        chat.send(asked[0]["content"], max_tokens=0)
        tokens = chat.session.tokens
    assert of_chat.logprobs["Hot"] == pytest.approx(smollm2.score("Hot", tokens).logprob, abs=0.1)
    likely, odd = (smollm2.score(text, PROMPT).logprob for text in (" Paris.", " tired."))
    assert likely > odd
    result = smollm2.generate(PROMPT, logprobs=2, **GREEDY)
    assert result.logprobs is not None
    assert (result.logprobs[0].text, result.logprobs[0].alternatives[0].text) == (" Paris",) * 2
    assert smollm2.score("yes", "Say yes").tokens[0].text


def test_certain_tokens_have_theirs_too(smollm2: Llama) -> None:
    """Where a constraint leaves no choice, the model is asked all the same if that is wanted."""
    pytest.importorskip("llguidance")
    choices = [" London calling", " Berlin"]
    for wanted in ({"logprobs": 0}, {"logprobs": 0, "prompt_logprobs": 0}):
        result = smollm2.generate(PROMPT, choices=choices, temperature=0, **wanted)  # type: ignore[arg-type]
        assert result.text in choices
        assert result.logprobs is not None
        assert [each.token for each in result.logprobs] == list(result.tokens)
        total = sum(each.logprob for each in result.logprobs)
        assert total == pytest.approx(smollm2.score(result.text, PROMPT).logprob, abs=0.5)


def test_what_is_asked_wrongly_is_refused(smollm2: Llama) -> None:
    """Each error names the argument and what is allowed."""
    calls: list[tuple[Any, str]] = [
        (lambda: smollm2.generate(PROMPT, logprobs=-1), "logprobs is -1; allowed: None or"),
        (lambda: smollm2.generate(PROMPT, prompt_logprobs=True), "prompt_logprobs is True"),  # type: ignore[arg-type]
        (lambda: smollm2.score(""), "the text is empty"),
        (lambda: smollm2.score("", PROMPT), "the text is empty"),
        (lambda: smollm2.score("a", alternatives=-2), "alternatives is -2; allowed"),
        (lambda: smollm2.score([99999], PROMPT), "token 99999 in the prompt"),
        (lambda: smollm2.classify(PROMPT, []), "choices is .*allowed: a list of texts"),
        (lambda: smollm2.classify(PROMPT, "ab"), "choices is 'ab'"),
        (lambda: smollm2.classify(PROMPT, ["a", ""]), "choices is"),
        (lambda: smollm2.classify(PROMPT, ["a", "a"]), "each text once"),
        (lambda: smollm2.classify("", ["a"]), "the prompt is empty"),
        (lambda: smollm2.classify(PROMPT, ["a"], normalize="x"), "normalize is 'x'; allowed: sum"),  # type: ignore[arg-type]
    ]
    for call, message in calls:
        with pytest.raises(InvalidOptionError, match=message):
            call()
    with pytest.raises(ContextLengthError):
        smollm2.classify("a " * 300, ["b"])


@pytest.fixture
def long_prompt(tmp_path: Path) -> Iterator[tuple[Llama, list[int]]]:
    """A tiny model, and a prompt of several steps."""
    path = write_tiny_llama(
        tmp_path / "tiny.gguf", TinyLlama(context_length=1200, sliding_window=150)
    )
    with Llama(path, context_length=1200) as llama:
        yield llama, llama.tokenizer.encode("once upon a time " * 100)[:1100]


def after_the_first_step(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Call ``happen`` where the first of a prompt's log-probabilities have just been noted."""
    keep = PromptLogprobs.keep
    calls: list[object] = []

    def keep_and_see(self: PromptLogprobs, rows: Any) -> Any:
        kept = keep(self, rows)
        if not calls:
            calls.append(self)
            happen()
        assert not self.is_complete
        return kept

    monkeypatch.setattr(PromptLogprobs, "keep", keep_and_see)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_model_that_is_closed_amid_a_score_gives_none(
    long_prompt: tuple[Llama, list[int]], monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    """A score of the part that was computed would be far too good."""
    llama, prompt = long_prompt
    closing = threading.Thread(target=llama.close)

    def close() -> None:
        (session,) = llama._sessions
        running: Any = session._running()
        closing.start()
        until(lambda: running._cancel.cancelled)

    after_the_first_step(monkeypatch, close)
    with pytest.raises(EdgellamaError, match="this model is closed"):
        if is_async:
            asyncio.run(llama.score_async(prompt))
        else:
            llama.score(prompt)
    closing.join()


@pytest.mark.parametrize("in_batch", [False, True])
def test_a_time_limit_amid_a_prompt_gives_no_part_of_its_log_probabilities(
    long_prompt: tuple[Llama, list[int]], monkeypatch: pytest.MonkeyPatch, in_batch: bool
) -> None:
    """The reason of its end would not tell a reader that entries are missing."""
    llama, prompt = long_prompt

    def wait() -> None:
        until(lambda: all(each.name != "edgellama-deadline" for each in threading.enumerate()))

    after_the_first_step(monkeypatch, wait)
    with pytest.raises(GenerationCancelled, match=r"the time limit .* all 1100 tokens"):
        if in_batch:
            list(llama.generate_batch([prompt], prompt_logprobs=0, timeout=0.2, max_tokens=1))
        else:
            llama.generate(prompt, prompt_logprobs=0, timeout=0.2, max_tokens=1)
