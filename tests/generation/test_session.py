"""Sessions and streams: what is computed, what ends a text, who may use a session when."""

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from harness.patience import PATIENCE_S, until
from reference.numpy_llama import NumpyEngine
from reference.scripted_engine import ScriptedEngine
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama.engine.pages.page_keys import shared_length
from edgellama.generation.results import Chunk, Generation, Usage
from edgellama.generation.sessions.session import Session
from edgellama.quant.errors import (
    ContextLengthError,
    EdgellamaError,
    InvalidOptionError,
    KernelError,
)
from edgellama.quant.gguf.file import GGUFFile
from edgellama.text.tokenizer import Tokenizer, load_tokenizer

TIMEOUT_S = 30.0
GREEDY: Any = {"temperature": 0}
PROMPT = list(b"once upon a time")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GGUFFile]:
    """A tiny model's file."""
    path = tmp_path_factory.mktemp("session") / "tiny.gguf"
    with GGUFFile(write_tiny_llama(path, TinyLlama(context_length=64))) as opened:
        yield opened


@pytest.fixture(scope="module")
def tokenizer(file: GGUFFile) -> Tokenizer:
    """Its tokenizer: token n below 256 is byte n, "hello" is one token."""
    return load_tokenizer(file.metadata)


@pytest.fixture
def engine(file: GGUFFile) -> NumpyEngine:
    """A NumPy engine that counts what it computes."""
    return NumpyEngine(file)


def session_of(engine: Any, tokenizer: Tokenizer, **options: Any) -> Session:
    """A session with an exact cache, so that reuse does not change any logit."""
    return Session(engine, tokenizer, **({"kv_type": "f32"} | options))


@pytest.fixture
def session(engine: NumpyEngine, tokenizer: Tokenizer) -> Session:
    """A session over the NumPy engine."""
    return session_of(engine, tokenizer)


@pytest.fixture
def scripted(tokenizer: Tokenizer) -> Callable[..., tuple[Session, ScriptedEngine]]:
    """Make a session whose model says the given text or tokens, over and over its last."""

    def make(script: str | list[int], **options: Any) -> tuple[Session, ScriptedEngine]:
        tokens = list(script.encode()) if isinstance(script, str) else script
        engine = ScriptedEngine(tokens, tokenizer.vocab_size, **options)
        return Session(engine, tokenizer), engine  # type: ignore[arg-type]

    return make


def greedy_tokens(engine: NumpyEngine, prompt: list[int], count: int) -> list[int]:
    """Greedy continuation, each token from scratch."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(engine.llama.forward(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


def test_greedy_text_is_the_models_own(session: Session, engine: NumpyEngine) -> None:
    """Greedy generation with a cache gives the tokens of repeated full passes without one."""
    result = session.generate(PROMPT, max_tokens=12, **GREEDY)
    assert list(result.tokens) == greedy_tokens(engine, PROMPT, 12)


def test_stream_and_generate_agree(engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """Chunks hold the tokens in order, and joined the text, of the whole generation."""
    whole = session_of(engine, tokenizer).generate(PROMPT, max_tokens=20, seed=3)
    with session_of(engine, tokenizer).stream(PROMPT, max_tokens=20, seed=3) as stream:
        chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [c.token for c in chunks if c.token is not None] == list(whole.tokens)
    result = stream.result
    assert (result.text, result.tokens, result.finish_reason) == (
        (whole.text, whole.tokens, whole.finish_reason)
    )
    assert whole.text == tokenizer.decode(whole.tokens, continuation=True)


def test_only_new_tokens_are_computed(session: Session, engine: NumpyEngine) -> None:
    """A prompt that goes on from the cache is prefilled from where the cache ends."""
    first = session.generate(PROMPT, max_tokens=5, **GREEDY)
    assert engine.forwarded == [len(PROMPT), 1, 1, 1, 1]
    assert session.tokens == (*PROMPT, *first.tokens[:4])
    engine.forwarded.clear()
    longer = [*PROMPT, *first.tokens, 65, 66]
    second = session.generate(longer, max_tokens=3, **GREEDY)
    assert engine.forwarded == [3, 1, 1]
    assert list(second.tokens) == greedy_tokens(engine, longer, 3)
    statistics = second.statistics
    assert (statistics.prompt_tokens, statistics.prefilled_tokens) == (len(longer), 3)
    assert statistics.decoded_tokens == 2


def test_the_same_prompt_again_computes_one_token(session: Session, engine: NumpyEngine) -> None:
    """For a prompt that is held completely only the last token is computed, with equal results."""
    first = session.generate(PROMPT, max_tokens=4, **GREEDY)
    engine.forwarded.clear()
    second = session.generate(PROMPT, max_tokens=4, **GREEDY)
    assert engine.forwarded == [1, 1, 1, 1]
    assert second.tokens == first.tokens


def test_a_different_prompt_drops_the_rest(session: Session, engine: NumpyEngine) -> None:
    """After a prompt that differs in the middle the result is that of a fresh session."""
    session.generate(PROMPT, max_tokens=6, **GREEDY)
    engine.forwarded.clear()
    other = [*PROMPT[:7], 1, 2, 3]
    result = session.generate(other, max_tokens=3, **GREEDY)
    assert engine.forwarded == [3, 1, 1]
    assert list(result.tokens) == greedy_tokens(engine, other, 3)
    assert session.tokens == (*other, *result.tokens[:2])


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [([], [1], 0), ([1, 2], [1, 2], 2), ([1, 2, 3], [1, 2], 2), ([1, 2], [1, 3], 1), ([1], [2], 0)],
)
def test_shared_length(first: list[int], second: list[int], shared: int) -> None:
    """The common beginning of two lists is counted, whichever is longer."""
    assert shared_length(first, second) == shared


def test_text_prompts_get_one_bos(session: Session, tokenizer: Tokenizer) -> None:
    """Text is encoded with the model's BOS; control tokens in it only if asked for."""
    bos = tokenizer.special.bos_id
    plain = session.generate("hello<|end|>", max_tokens=1, **GREEDY)
    assert plain.prompt_tokens == 1 + len(tokenizer.encode("hello<|end|>", add_bos=False))
    assert session.tokens[0] == bos
    parsed = session.generate("<|begin|>hello<|end|>", max_tokens=1, parse_special=True, **GREEDY)
    assert parsed.prompt_tokens == 3
    assert session.tokens == (bos, *tokenizer.encode("hello", add_bos=False), bos_plus(bos, 1))


def bos_plus(bos: int | None, offset: int) -> int:
    """A control token by its place after BOS."""
    assert bos is not None
    return bos + offset


def test_prompt_longer_than_the_context(session: Session) -> None:
    """It is refused with both counts, before anything is computed, and the session stays usable."""
    session.generate(PROMPT, max_tokens=2, **GREEDY)
    before = session.tokens
    with pytest.raises(ContextLengthError, match=r"65 tokens.*64") as caught:
        session.generate([1] * 65)
    assert (caught.value.prompt_tokens, caught.value.context_length) == (65, 64)
    assert session.tokens == before
    assert session.generate(PROMPT, max_tokens=2, **GREEDY).tokens


def test_a_giant_prompt_is_refused_without_its_tokens(
    session: Session, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length alone tells that it does not fit, in whatever way it is given."""
    monkeypatch.setattr(type(tokenizer), "encode", lambda *_, **__: pytest.fail("is encoded"))
    with pytest.raises(ContextLengthError, match="at least") as caught:
        session.generate("word " * 1_000_000)
    with pytest.raises(ContextLengthError, match="at least 2000000 tokens"):
        session.generate([1] * 2_000_000)
    assert caught.value.prompt_tokens > caught.value.context_length


@pytest.mark.parametrize("prompt_tokens", [1, 16, 63, 64])
def test_full_context_ends_the_text(
    prompt_tokens: int, scripted: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A full context ends the text with that reason and a log line; nothing is dropped."""
    session, _ = scripted("x", context_length=64)
    prompt = (PROMPT * 4)[:prompt_tokens]
    with caplog.at_level(logging.WARNING, "edgellama"):
        result = session.generate(prompt, **GREEDY)
    assert (result.finish_reason, result.context_full) == ("context", True)
    assert len(result.tokens) == 64 - prompt_tokens + 1
    assert session.tokens == (*prompt, *result.tokens[:-1])
    assert "context of 64 tokens is full" in caplog.text


def test_max_tokens(session: Session) -> None:
    """The text has exactly max_tokens tokens, and the context is not reported as full."""
    result = session.generate(PROMPT, max_tokens=7, **GREEDY)
    assert len(result.tokens) == 7
    assert (result.finish_reason, result.context_full) == ("length", False)


def test_end_tokens_end_the_text(scripted: Any, tokenizer: Tokenizer) -> None:
    """Every end-of-generation token ends the text and is no part of it."""
    for end in tokenizer.special.end_of_generation:
        session, _ = scripted([104, 105, end])
        result = session.generate(PROMPT)
        assert (result.text, result.tokens, result.finish_reason) == ("hi", (104, 105), "stop")
        assert result.matched_stop == end
        assert result.statistics.decoded_tokens == 2
        assert session.tokens == (*PROMPT, 104, 105)
    assert len(tokenizer.special.end_of_generation) >= 2


def test_stop_string_over_several_tokens(scripted: Any) -> None:
    """The text ends before a stop string that spans tokens; text held back for it comes late."""
    session, engine = scripted("a ST b STOP c")
    stream = session.stream(PROMPT, stop=["STOP"])
    texts = [chunk.text for chunk in stream]
    assert "".join(texts) == stream.result.text == "a ST b "
    assert (stream.result.finish_reason, stream.result.matched_stop) == ("stop", "STOP")
    assert texts[:6] == ["a", " ", "", "", "ST ", "b"]
    assert len(engine.forwarded) == len("a ST b STOP")


def test_stop_tokens(scripted: Any, tokenizer: Tokenizer) -> None:
    """They end the text, and are no part of it; ignore_eos concerns the model's own alone."""
    session, _ = scripted("a;b;c")
    result = session.generate(PROMPT, stop_tokens=[59, 60])
    assert (result.text, result.finish_reason, result.matched_stop) == ("a", "stop", 59)
    end = min(tokenizer.special.end_of_generation)
    session, _ = scripted([97, end, 59])
    result = session.generate(PROMPT, stop_tokens=[59], ignore_eos=True, temperature=0)
    assert (result.matched_stop, len(result.tokens)) == (59, 2)
    for wrong in (59, "a", [-1], [True], [1.5]):
        with pytest.raises(InvalidOptionError, match=r"stop_tokens is .*allowed: a list of token"):
            session.generate(PROMPT, stop_tokens=wrong)


def test_usage(scripted: Any) -> None:
    """Tokens of the prompt, of these the ones the session had, and of the text."""
    session, _ = scripted("abc")
    first = session.generate(PROMPT, max_tokens=2)
    again = session.generate((*PROMPT, *first.tokens), max_tokens=1)
    assert first.usage == Usage(len(PROMPT), 0, 2)
    assert again.usage == Usage(len(PROMPT) + 2, len(PROMPT) + 1, 1)
    assert again.usage.total_tokens == len(PROMPT) + 3
    assert (first.finish_reason, first.matched_stop) == ("length", None)


def test_one_stop_string_may_be_a_plain_string(scripted: Any) -> None:
    """``stop`` takes one string too."""
    session, _ = scripted("yes. no.")
    assert session.generate(PROMPT, stop=".").text == "yes"


def test_held_back_text_comes_at_the_end(scripted: Any) -> None:
    """A possible beginning of a stop string is given out when the text ends otherwise."""
    session, _ = scripted("ab ST")
    stream = session.stream(PROMPT, stop=["STOP"], max_tokens=5)
    assert list(stream)[-1] == Chunk("ST", None)
    assert stream.result.text == "ab ST"
    assert stream.result.finish_reason == "length"


def test_no_half_characters(scripted: Any) -> None:
    """A character's text comes with its last byte; one that is never finished becomes U+FFFD."""
    session, _ = scripted(list("é€".encode())[:4])
    texts = [chunk.text for chunk in session.stream(PROMPT, max_tokens=4)]
    assert texts == ["", "é", "", "", "\ufffd"]


def test_cancel_from_another_thread(scripted: Any) -> None:
    """A text without end is ended by another thread; what came until then is kept."""
    session, _ = scripted("x", context_length=10**9)
    stream = session.stream(PROMPT)
    started = threading.Event()
    canceller = threading.Thread(target=lambda: (started.wait(TIMEOUT_S), stream.cancel()))
    canceller.start()
    count = 0
    for count, _chunk in enumerate(stream, start=1):
        if count == 3:
            started.set()
    canceller.join()
    result = stream.result
    assert result.finish_reason == "cancelled"
    assert len(result.tokens) == count >= 3
    assert not session.busy
    assert session.tokens == (*PROMPT, *result.tokens)[: len(session.tokens)]


class PausingEngine(NumpyEngine):
    """Computes one token a chunk and stops before the chunk ``pause_at`` until told to go on."""

    CHUNK_TOKENS = 1

    def __init__(self, file: Any, pause_at: int) -> None:
        super().__init__(file)
        self.reached, self.go_on = threading.Event(), threading.Event()
        forward = self.llama.forward

        def pausing(tokens: Any, cache: Any = None) -> Any:
            if len(self.forwarded) == pause_at:
                self.reached.set()
                assert self.go_on.wait(TIMEOUT_S)
            return forward(tokens, cache)

        self.llama.forward = pausing  # type: ignore[method-assign]


def test_cancel_during_prefill(file: GGUFFile, tokenizer: Tokenizer) -> None:
    """A cancel during prefill ends the text empty; what was computed is kept and reused."""
    engine = PausingEngine(file, pause_at=5)
    session = session_of(engine, tokenizer)
    stream = session.stream(PROMPT, max_tokens=3, **GREEDY)
    results: list[Generation] = []
    worker = threading.Thread(target=lambda: results.append(stream.wait()))
    worker.start()
    assert engine.reached.wait(TIMEOUT_S)
    stream.cancel()
    engine.go_on.set()
    worker.join(TIMEOUT_S)
    assert [(r.text, r.finish_reason) for r in results] == [("", "cancelled")]
    assert results[0].statistics.prefilled_tokens == 6
    assert session.tokens == tuple(PROMPT[:6])
    again = session.generate(PROMPT, max_tokens=3, **GREEDY)
    assert again.statistics.prefilled_tokens == len(PROMPT) - 6
    assert list(again.tokens) == greedy_tokens(NumpyEngine(file), PROMPT, 3)


def test_cancel_before_the_first_step(session: Session, engine: NumpyEngine) -> None:
    """A stream cancelled before it starts gives nothing and computes nothing."""
    stream = session.stream(PROMPT)
    stream.cancel()
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    assert engine.forwarded == []


def test_two_sessions_in_two_threads(engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """Sessions that run at the same time over one engine give what they give alone."""
    prompts = [PROMPT, list(b"another beginning")]
    alone = [session_of(engine, tokenizer).generate(p, max_tokens=30, seed=5) for p in prompts]
    meet = threading.Barrier(2)
    together: dict[int, Generation] = {}

    def run(number: int) -> None:
        stream = session_of(engine, tokenizer).stream(prompts[number], max_tokens=30, seed=5)
        next(stream)
        meet.wait(TIMEOUT_S)
        together[number] = stream.wait()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert [together[number].tokens for number in range(2)] == [r.tokens for r in alone]


def test_a_session_makes_one_text_at_a_time(session: Session) -> None:
    """A second stream is refused while one runs, even unstarted, and allowed after its end."""
    first = session.stream(PROMPT, max_tokens=2)
    with pytest.raises(EdgellamaError, match="in use"):
        session.stream(PROMPT)
    next(first)
    with pytest.raises(EdgellamaError, match="in use"):
        session.generate(PROMPT)
    first.close()
    assert first.result.finish_reason == "cancelled"
    assert session.generate(PROMPT, max_tokens=1).finish_reason == "length"


def test_a_cancelled_stream_gives_its_session_back(session: Session) -> None:
    """Whoever cancels a stream need not iterate it to its end before the next text."""
    first = session.stream(PROMPT, **GREEDY)
    token = next(first).token
    first.cancel()
    assert session.generate(PROMPT, max_tokens=1).finish_reason == "length"
    assert first.result.finish_reason == "cancelled" and first.result.tokens == (token,)
    assert list(first) == []
    unstarted = session.stream(PROMPT)
    unstarted.cancel()
    session.generate(PROMPT, max_tokens=1)
    assert unstarted.ended


def test_a_stream_whose_time_was_over_says_so(session: Session) -> None:
    """The reason is its own also where the next text of the session has ended it."""
    first = session.stream(PROMPT, timeout=0.05)
    next(first)
    until(lambda: first._cancel.cancelled)
    session.generate(PROMPT, max_tokens=1)
    assert first.result.finish_reason == "timeout"


def test_a_stream_that_is_cancelled_amid_a_step_is_waited_for(
    file: GGUFFile, tokenizer: Tokenizer
) -> None:
    """The next text begins once the thread that iterates the stream has left the step."""
    engine = PausingEngine(file, pause_at=5)
    session = session_of(engine, tokenizer)
    stream = session.stream(PROMPT, max_tokens=3, **GREEDY)
    worker = threading.Thread(target=stream.wait)
    worker.start()
    assert engine.reached.wait(TIMEOUT_S)
    with pytest.raises(EdgellamaError, match="in use"):
        session.generate(PROMPT)
    stream.cancel()
    going_on = threading.Timer(0.05, engine.go_on.set)
    going_on.start()
    assert session.generate(PROMPT, max_tokens=3, **GREEDY).finish_reason == "length"
    assert stream.result.finish_reason == "cancelled"
    for thread in (worker, going_on):
        thread.join(TIMEOUT_S)


def test_a_dropped_stream_gives_its_session_back(session: Session) -> None:
    """Leaving a loop, or never starting one, releases the session with the last reference."""
    for _chunk in session.stream(PROMPT):
        break
    gc.collect()
    assert not session.busy
    session.stream(PROMPT)
    gc.collect()
    assert not session.busy


def test_closing_within_the_end_of_a_stream(session: Session) -> None:
    """A signal's handler may close the session while a stream that is dropped early ends."""
    stream = session.stream("Hello", temperature=0, max_tokens=5)
    steps, is_closed = stream._steps, threading.Event()

    def interrupted_at_its_end() -> Iterator[Chunk]:
        try:
            yield from steps
        finally:
            session.close()
            is_closed.set()

    stream._steps = interrupted_at_its_end()  # type: ignore[assignment]
    next(stream)
    thread = threading.Thread(target=stream.close, daemon=True)
    thread.start()
    assert is_closed.wait(PATIENCE_S)
    thread.join(PATIENCE_S)
    assert stream.ended and not session.busy


def test_leaving_the_with_block_cancels(session: Session) -> None:
    """A stream left early ends as cancelled with the tokens so far, and gives no more."""
    with session.stream(PROMPT, **GREEDY) as stream:
        tokens = [next(stream).token, next(stream).token]
    assert list(stream.result.tokens) == tokens
    assert stream.result.finish_reason == "cancelled"
    assert list(stream) == []


def test_result_of_a_running_stream(session: Session) -> None:
    """Asking for the result before the end is an error that says so."""
    with session.stream(PROMPT) as stream:
        next(stream)
        with pytest.raises(EdgellamaError, match="not ended"):
            _ = stream.result


def test_one_stream_in_two_threads(file: GGUFFile, tokenizer: Tokenizer) -> None:
    """While one thread is inside a step, another gets a clear error, and close only cancels."""
    engine = PausingEngine(file, pause_at=1)
    stream = session_of(engine, tokenizer).stream(PROMPT)
    worker = threading.Thread(target=stream.wait)
    worker.start()
    assert engine.reached.wait(TIMEOUT_S)
    with pytest.raises(EdgellamaError, match="another thread"):
        next(stream)
    stream.close()
    engine.go_on.set()
    worker.join(TIMEOUT_S)
    assert stream.result.finish_reason == "cancelled"


def test_an_error_inside_releases_the_session(scripted: Any) -> None:
    """An error of the engine reaches the caller; the session knows what it holds and goes on."""

    def fail(step: int) -> None:
        if step == 2:
            raise KernelError("broken")

    session, _ = scripted("abcdef", before_step=fail)
    stream = session.stream(PROMPT)
    with pytest.raises(KernelError, match="broken"):
        stream.wait()
    with pytest.raises(EdgellamaError, match="failed"):
        _ = stream.result
    assert session.tokens == (*PROMPT, ord("a"))
    assert session.generate(PROMPT, max_tokens=2).finish_reason == "length"


def test_closing_ends_a_running_stream(scripted: Any) -> None:
    """close() ends a stream that another thread runs, and one that nobody continues."""
    session, engine = scripted("x", context_length=10**9)
    stream = session.stream(PROMPT)
    next(stream)
    worker = threading.Thread(target=stream.wait)
    worker.start()
    session.close()
    worker.join(TIMEOUT_S)
    assert not worker.is_alive()
    assert stream.result.finish_reason == "cancelled"
    assert engine.caches[0].closed
    with pytest.raises(EdgellamaError, match="closed"):
        session.generate(PROMPT)
    session.close()
    paused, _ = scripted("x")
    suspended = paused.stream(PROMPT)
    next(suspended)
    paused.close()
    assert suspended.result.finish_reason == "cancelled"


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt": []},
        {"prompt": [-1]},
        {"prompt": [1, 288]},
        {"max_tokens": -1},
        {"max_tokens": 2.5},
        {"max_tokens": "3"},
        {"stop": ""},
        {"stop": ["a", ""]},
        {"stop": b"a"},
        {"stop": 7},
        {"prompt": b"hello"},
        {"prompt": bytearray(b"hello")},
        {"prompt": ["hello", "world"]},
        {"prompt": [1.5]},
        {"prompt": [True]},
        {"prompt": None},
        {"prompt": 7},
        {"temperature": -1.0},
        {"top_p": 2.0},
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], session: Session) -> None:
    """Impossible values are refused at once, and the session stays free."""
    with pytest.raises(InvalidOptionError):
        session.stream(**({"prompt": PROMPT} | arguments))
    assert not session.busy


def test_prompts_that_mean_the_same(session: Session) -> None:
    """Ids may come in any row of whole numbers, and no stop strings may be said with None."""
    expected = session.generate(PROMPT, max_tokens=3, **GREEDY).tokens
    for prompt in (tuple(PROMPT), np.array(PROMPT, np.int32), range(0)):
        given: Any = prompt if len(prompt) else iter(PROMPT)
        assert session.generate(given, max_tokens=3, stop=None, **GREEDY).tokens == expected


def test_a_prompt_of_several_texts(session: Session) -> None:
    """Several texts at once are refused with the text, and bytes with what decodes them."""
    with pytest.raises(InvalidOptionError, match=r"the text 'hello'; allowed: text, or token ids"):
        session.generate(["hello", "world"])  # type: ignore[list-item]
    with pytest.raises(InvalidOptionError, match=r"b'hello'; allowed: .*prompt\.decode"):
        session.generate(b"hello")


def test_impossible_context_length(engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """A session needs room for at least one token."""
    with pytest.raises(InvalidOptionError, match="context_length is 0"):
        session_of(engine, tokenizer, context_length=0)


def test_same_seed_same_text(engine: NumpyEngine, tokenizer: Tokenizer) -> None:
    """Two sessions with one seed write the same text, and another seed another."""
    texts = [
        session_of(engine, tokenizer).generate(PROMPT, max_tokens=20, temperature=2.0, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert texts[0].tokens == texts[1].tokens != texts[2].tokens


def test_repeat_penalty_sees_prompt_and_text(scripted: Any) -> None:
    """A strong penalty makes greedy decoding leave a token that the prompt or text has."""
    session, _ = scripted([PROMPT[0]])
    result = session.generate(PROMPT, max_tokens=2, repeat_penalty=1e9, temperature=0)
    assert PROMPT[0] not in result.tokens
    assert len(set(result.tokens)) == 2


def test_statistics(session: Session) -> None:
    """Speeds are tokens by the seconds spent, and the caller's own time does not count."""
    stream = session.stream(PROMPT, max_tokens=5, **GREEDY)
    pause_s = 0.2
    started = perf_counter()
    next(stream)
    threading.Event().wait(pause_s)
    statistics = stream.wait().statistics
    total_s = perf_counter() - started
    assert statistics.decoded_tokens == 4
    assert 0 < statistics.prefill_s <= statistics.time_to_first_token_s
    assert 0 < statistics.decode_s <= total_s - pause_s
    assert statistics.prefill_tokens_per_second == len(PROMPT) / statistics.prefill_s
    assert statistics.decode_tokens_per_second == 4 / statistics.decode_s


def test_one_token_has_no_decoding_speed(session: Session) -> None:
    """A text of one token has a prefill speed and a decoding speed of zero."""
    statistics = session.generate(PROMPT, max_tokens=1).statistics
    assert statistics.decode_tokens_per_second == 0.0 < statistics.prefill_tokens_per_second
