"""The facade: a model from a path, and everything that hangs on it."""

import copy
import logging
import pickle
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness.kernels import model_of
from reference.numpy_llama import NumpyEngine, NumpyLlama
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import loading
from edgellama.engine.context_memory import PROCESS_BYTES, MemoryNeed
from edgellama.engine.pages.kv_types import KVTypes
from edgellama.llama import Llama
from edgellama.measure.file_footprint import predict_footprint
from edgellama.quant.errors import (
    EdgellamaError,
    InvalidOptionError,
    ModelFileError,
    ModelNotFoundError,
    TokenizerError,
    UnsupportedModelError,
)
from edgellama.quant.gguf.file import GGUFFile

GREEDY: Any = {"temperature": 0, "max_tokens": 8}
MakeFile = Callable[..., Path]


@pytest.fixture
def make_file(tmp_path: Path) -> MakeFile:
    """Write a tiny model with the given differences and return its path."""
    return lambda **own: write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama(**own))


@pytest.fixture
def numpy_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the facade run on the NumPy engine, for what does not depend on the engine."""
    monkeypatch.setattr(loading, "Engine", NumpyEngine)


@pytest.fixture
def llama(numpy_engine: None, make_file: MakeFile) -> Llama:
    """The facade over the NumPy engine."""
    return Llama(make_file())


def test_the_real_engine_says_what_numpy_says(make_file: MakeFile) -> None:
    """A file gives the greedy tokens of the NumPy Llama, as a text and through a chat."""
    path = make_file(heads=3, kv_heads=1, head_size=16)
    with GGUFFile(path) as file:
        reference = NumpyLlama(file)
    with Llama(path, kv_type="f32", num_threads=2) as llama:
        prompt = llama.tokenizer.encode("hello world")
        result = llama.generate("hello world", **GREEDY)
        tokens = list(prompt)
        while len(tokens) < len(prompt) + len(result.tokens):
            tokens.append(int(reference.forward(tokens)[-1].argmax()))
        assert list(result.tokens) == tokens[len(prompt) :]
        with llama.chat("Be brief.", repeat_penalty=1, dry_multiplier=0) as chat:
            first = chat.send("hello", **GREEDY)
            held = chat.session.tokens
            second = chat.send("go on", **GREEDY)
            assert chat.session.tokens[: len(held)] == held
            assert second.statistics.prefilled_tokens < second.prompt_tokens
        prompt = list(chat_prompt(llama, first.prompt_tokens, held))
        for token in first.tokens:
            assert token == int(reference.forward(prompt)[-1].argmax())
            prompt.append(token)


def chat_prompt(llama: Llama, num_tokens: int, held: tuple[int, ...]) -> tuple[int, ...]:
    """The first prompt of a chat, out of the tokens that its session held."""
    prompt = held[:num_tokens]
    assert llama.tokenizer.decode(prompt, skip_special=False).endswith("<|im_start|>assistant\n")
    return prompt


def test_cancel_of_the_real_engine(make_file: MakeFile) -> None:
    """A text that another thread cancels ends, and the model goes on to work."""
    with Llama(make_file(context_length=100_000)) as llama:
        stream = llama.stream("hello", temperature=2.0, seed=1)
        timer = threading.Timer(0.2, stream.cancel)
        timer.start()
        assert stream.wait().finish_reason in ("cancelled", "stop")
        timer.join()
        assert llama.generate("hello", **GREEDY).tokens


def test_generate_and_stream(llama: Llama) -> None:
    """Both give the same text, and each call starts afresh in a session of its own."""
    first = llama.generate("hello", **GREEDY)
    with llama.stream("hello", **GREEDY) as stream:
        texts = [chunk.text for chunk in stream]
    assert "".join(texts) == first.text
    assert stream.result.statistics.prefilled_tokens == first.statistics.prefilled_tokens == 2


def test_parts_of_the_model(llama: Llama) -> None:
    """Configuration, metadata and tokenizer are at hand."""
    assert llama.config.vocab_size == llama.tokenizer.vocab_size == 288
    assert llama.metadata["general.architecture"] == "llama"
    assert llama.context_length == 256


def test_context_length(numpy_engine: None, make_file: MakeFile) -> None:
    """The given context length holds for sessions, one of them may have another."""
    with Llama(make_file(), context_length=32) as llama:
        assert llama.context_length == llama.session().context_length == 32
        assert llama.session(context_length=8).context_length == 8
        assert llama.chat().session.context_length == 32


def test_no_template(numpy_engine: None, make_file: MakeFile) -> None:
    """Without a template there is no chat, and the error says what to do; a given one serves."""
    with Llama(make_file(chat_template=None)) as llama:
        with pytest.raises(UnsupportedModelError, match=r"no chat template.*chat\(template="):
            llama.chat()
        with llama.chat(template="{{ messages[0]['content'] }}") as chat:
            assert chat.send("hello", **GREEDY).prompt_tokens == 2
        with pytest.raises(InvalidOptionError, match="no chat format is called ''"):
            llama.chat(template="")
        assert llama.generate("hello", **GREEDY).tokens


def test_close_ends_everything(numpy_engine: None, make_file: MakeFile) -> None:
    """Leaving the model ends its running streams and refuses new work; twice does no harm."""
    with Llama(make_file()) as llama:
        chat, session = llama.chat(), llama.session()
        stream = chat.stream("hello")
        next(stream)
        bare = llama.stream("hello")
        next(bare)
    assert stream.result.finish_reason == bare.result.finish_reason == "cancelled"
    for use in (
        lambda: chat.send("x"),
        lambda: session.generate("x"),
        llama.session,
        llama.chat,
        lambda: llama.generate("x"),
    ):
        with pytest.raises(EdgellamaError, match="closed"):
            use()
    llama.close()


def test_close_gives_the_file_back(make_file: MakeFile) -> None:
    """After close() nothing maps the file, though every object still lives; use is an error."""
    path = make_file()
    llama = Llama(path, num_threads=2)
    session, chat = llama.session(), llama.chat()
    stream = chat.stream("hello")
    next(stream)
    engine, file = llama._engine, llama._file
    mapping = weakref.ref(mapping_of(file.tensors["token_embd.weight"].data))
    llama.close()
    assert mapping() is None
    assert stream.result.finish_reason == "cancelled"
    assert llama.config.vocab_size == 288 and "tokenizer.ggml.model" in llama.metadata
    for use in (
        lambda: llama.generate("x"),
        lambda: session.generate("x"),
        lambda: chat.send("x"),
        lambda: engine.forward([1], engine.new_cache(8)),
        lambda: engine.step_ops(1),
        lambda: engine.run_ops("idle", list),
        lambda: engine.weights,
        lambda: file.tensors,
    ):
        with pytest.raises(EdgellamaError, match="closed"):
            use()


def test_debug_tells_what_a_load_did(make_file: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    """At DEBUG the log has the file, its types, where kernels came from, and the memory."""
    path = make_file(weight_format="F32", heads=4, kv_heads=1, context_length=64)
    with caplog.at_level(logging.DEBUG, "edgellama"), Llama(path, num_threads=2, kv_type="q8_0"):
        pass
    told = caplog.text
    for expected in (
        f"file {path}: 0.",
        "mapped; tensors: F32 0.",
        "2 layers, embedding 64, vocabulary 288, context 64 tokens",
        "2 threads, tier",
        "kernels for",
        "the rest from the cache",
        "a KV cache (q8_0) of 64 tokens takes 0.0 MB",
        "peak so far is",
        "loaded in",
    ):
        assert expected in told
    caplog.clear()
    with caplog.at_level(logging.INFO, "edgellama"), Llama(path, num_threads=2):
        pass
    assert caplog.text == ""


def mapping_of(array: Any) -> Any:
    """The mapping that an array views, through whatever views lie between."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 0}, "context_length is 0"),
        ({"kv_type": "q8"}, "KV type 'q8'; allowed"),
        ({"kv_type": None}, "KV type None; allowed"),
        ({"kv_type": 8}, "KV type 8; allowed"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Impossible options are refused before the file is looked for."""
    with pytest.raises(InvalidOptionError, match=message):
        Llama(tmp_path / "missing.gguf", **options)


@pytest.mark.parametrize(
    "call",
    [
        lambda llama: llama.generate("x", temp=3),
        lambda llama: llama.stream("x", temp=3),
        lambda llama: llama.generate_batch(["x"], temp=3),
        lambda llama: llama.chat(template="chatml", temp=3),
        lambda llama: llama.chat(template="chatml").send("x", temp=3),
    ],
    ids=["generate", "stream", "generate_batch", "chat", "send"],
)
def test_options_that_there_are_not(llama: Llama, call: Callable[[Any], object]) -> None:
    """A name that is no option is our own error, which names the one that was meant."""
    with pytest.raises(InvalidOptionError, match="no option 'temp'; did you mean temperature"):
        call(llama)


def footprint_of(llama: Llama, **options: Any) -> object:
    """The prediction for a model's own file."""
    return predict_footprint(llama._file.path, **options)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda llama: llama.generate("x", n_predict=3), "'n_predict'; did you mean max_tokens?"),
        (lambda llama: llama.chat(template="chatml", sytem="x"), "'sytem'; did you mean system?"),
        (lambda llama: llama.rerank("q", ["d"], top=1), "'top'; did you mean top_n?"),
        (lambda llama: llama.generate("x", tools=[]), "tools is given with a prompt"),
        (lambda llama: llama.generate(["a", "b"]), "generate_batch takes several texts"),
        (lambda llama: llama.generate([{"role": "user"}]), "chat(messages=...) takes messages"),
        (lambda llama: llama.generate_batch(5), "prompts is 5; allowed: an iterable"),
        (lambda llama: llama.generate_batch(["x"], width="8"), "width is '8'; allowed: a whole"),
        (lambda llama: llama.session(context_length="8k"), "context_length is '8k'; allowed"),
        (lambda llama: setattr(llama, "cache_limit", "1G"), "cache_limit is '1G'; allowed: bytes"),
        (lambda llama: Llama("smollm2", context_length="8k"), "context_length is '8k'; allowed"),
        (lambda llama: Llama(None), "the model is None; allowed: a path or a name"),
        (lambda llama: Llama(""), "the model is ''; allowed: a path or a name"),
        (lambda llama: llama.chat(template=5), "no chat format is called 5; allowed"),
        (lambda llama: llama.chat(template=b"{x}"), "no chat format is called b'{x}'"),
        (lambda llama: llama.add_hook(None), "a hook that is None; allowed: a function"),
        (lambda llama: llama.add_hook(print, layers=4), "a hook at layers 4; allowed: a list"),
        (lambda llama: llama.add_hook(print, layers=["4"]), "a hook at layer '4'; allowed: 0 to"),
        (lambda llama: setattr(llama, "cache_limit", None), "cache_limit is None; allowed: bytes"),
        (lambda llama: footprint_of(llama, context_length="9"), "context_length is '9'; allowed"),
        (lambda llama: footprint_of(llama, num_threads=1.5), "num_threads is 1.5; allowed: 1 to"),
        (lambda llama: footprint_of(llama, kv_type=[]), "KV type []; allowed: one"),
    ],
)
def test_what_newcomers_write_is_told(
    llama: Llama, call: Callable[[Any], object], words: str
) -> None:
    """Other programs' names, parameters of a call and useless values have an error that helps."""
    with pytest.raises(InvalidOptionError) as caught:
        call(llama)
    assert words in str(caught.value)


def test_only_strings_are_encoded(llama: Llama) -> None:
    """What is no string has an error of our own."""
    with pytest.raises(TokenizerError, match="the text to encode is 5; allowed: a string"):
        llama.tokenizer.encode(5)  # type: ignore[arg-type]


def test_a_model_shows_its_file(llama: Llama) -> None:
    """What a notebook prints for a model names its file and its context."""
    assert repr(llama).startswith("<Llama '") and "context_length=" in repr(llama)


def test_what_is_bound_to_its_process_says_so(llama: Llama) -> None:
    """Models and what runs on them are neither copied nor pickled, and show what they are."""
    session, stream = llama.session(), llama.stream("one", max_tokens=1, temperature=0)
    batch, later = llama.generate_batch(["one"], max_tokens=1), llama.stream_async("one")
    for thing in (llama, llama.tokenizer, session, stream, batch, later):
        for take in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="can be neither copied nor pickled; another"):
                take(thing)
    assert repr(session) == f"<Session tokens=0, context_length={session.context_length}>"
    assert repr(stream) == "<Stream running>"
    result = stream.wait()
    assert repr(stream) == f"<Stream {result.finish_reason}>"
    assert pickle.loads(pickle.dumps(result)) == copy.deepcopy(result) == result
    assert repr(llama.chat()) == f"<Conversation messages=0, {session!r}>"
    session.close()
    batch.close()
    assert repr(session).endswith(", closed>")


def test_missing_and_broken_files(tmp_path: Path) -> None:
    """A missing model and a file that is none have errors of their own."""
    with pytest.raises(ModelNotFoundError):
        Llama(tmp_path / "missing.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF and nothing more")
    with pytest.raises(ModelFileError, match=r"broken\.gguf"):
        Llama(broken)


def test_a_failed_start_closes_the_file(
    make_file: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the engine cannot start, the mapped file is closed before the error goes on."""
    opened: list[GGUFFile] = []
    closed: list[GGUFFile] = []

    class Recorded(GGUFFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            opened.append(self)

        def close(self) -> None:
            closed.append(self)
            super().close()

    def fail(*_: object, **__: object) -> None:
        raise UnsupportedModelError("no such kernel")

    monkeypatch.setattr(loading, "GGUFFile", Recorded)
    monkeypatch.setattr(loading, "Engine", fail)
    with pytest.raises(UnsupportedModelError, match="no such kernel"):
        Llama(make_file())
    assert opened and closed == opened


LONG = replace(
    model_of(4096, head_size=128, heads=32, kv_heads=8), block_count=16, context_length=131072
)
"""A model with a context of 131072 tokens at 64 kB each in F16."""


@pytest.mark.parametrize(
    ("available_bytes", "kv_type", "expected"),
    [
        (None, "f16", 131072),
        (1 << 40, "f16", 131072),
        (16 << 30, "f16", 131072),
        (8 << 30, "f16", 65536),
        (8 << 30, "f32", 32768),
        ((8 << 30) - 1, "f16", 65280),
        (0, "f16", 512),
    ],
)
def test_default_context(available_bytes: int | None, kv_type: str, expected: int) -> None:
    """Half of the free memory goes to the cache at most, in whole steps, never under a minimum."""
    need = MemoryNeed(LONG, KVTypes.of(kv_type), 0, available_bytes)
    assert need.fitting_context_length() == expected


def test_a_short_context_is_never_lengthened() -> None:
    """A model whose own context is below the minimum keeps it."""
    short = replace(LONG, context_length=64)
    assert MemoryNeed(short, KVTypes.of("f16"), 0, 0).fitting_context_length() == 64


@pytest.mark.parametrize(
    ("weights_bytes", "expected"),
    [(2 << 30, 65536), (4 << 30, 65536), (6 << 30, 32768), (40 << 30, 16384)],
)
def test_weights_leave_less_for_the_context(weights_bytes: int, expected: int) -> None:
    """Weights and a full cache fit together where they can; a share is left in any case."""
    need = MemoryNeed(LONG, KVTypes.of("f16"), weights_bytes - PROCESS_BYTES, 8 << 30)
    assert need.fitting_context_length() == expected


def test_a_window_needs_no_memory_for_what_is_behind_it() -> None:
    """A cache that only ever holds a window fits at the model's whole length."""
    windowed = replace(LONG, sliding_window=4096)
    assert MemoryNeed(windowed, KVTypes.of("f16"), 0, 1 << 30).fitting_context_length() == 131072


def test_what_does_not_fit_is_said_when_a_model_is_loaded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full context beyond the free memory, with one that fits; weights beyond it, without."""

    def said(weights_bytes: int, length: int | None, available_bytes: int | None) -> str:
        caplog.clear()
        MemoryNeed(LONG, KVTypes.of("f16"), weights_bytes, available_bytes).warn(length)
        return caplog.text

    assert said(4 << 30, 32768, 8 << 30) == said(40 << 30, 131072, None) == ""
    text = said(4 << 30, 131072, 8 << 30)
    assert "a full context of 131072 tokens takes 12.9 GB with the weights, and 8.6 GB" in text
    fitting = int(text.rpartition("context_length=")[2])
    assert said(4 << 30, fitting, 8 << 30) == "" != said(4 << 30, fitting + 512, 8 << 30)
    text = said(40 << 30, 512, 800 << 20)
    assert "the model takes 43.0 GB even with a context of 512 tokens, and 839 MB of" in text
    assert said(40 << 30, None, 800 << 20) == text
    assert said(4 << 30, None, 8 << 30) == ""


def test_a_result_tells_the_memory_of_its_text(make_file: MakeFile) -> None:
    """Keys and values of prompt and text, in whole pages; a second text of them adds nothing."""
    with Llama(make_file(), num_threads=1) as llama, llama.session() as session:
        page_bytes = llama._engine.pool().layout.page_bytes
        result = session.generate([65] * 130, max_tokens=2, temperature=0)
        assert result.statistics.cache_bytes == 2 * page_bytes
        again = session.generate([65] * 130, max_tokens=2, temperature=0)
        assert again.statistics.cache_bytes == 2 * page_bytes
        (short,) = llama.generate_batch([[65]], max_tokens=2)
        assert short.statistics.cache_bytes == page_bytes


def test_open_sessions_are_listed_with_their_memory(tiny_path: Path) -> None:
    """A model knows its sessions and what each holds, until they are closed."""
    with Llama(tiny_path) as llama:
        assert llama.sessions == ()
        with llama.session() as session:
            assert llama.sessions == (session,) and session.num_bytes == 0
            session.generate("Hello", max_tokens=2)
            assert session.num_bytes > 0
            fork = session.fork()
            assert set(llama.sessions) == {session, fork}
            fork.close()
            assert fork.closed and llama.sessions == (session,)
        assert session.closed and llama.sessions == ()
        assert llama.read_speed() > 0
