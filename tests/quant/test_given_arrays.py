"""Arrays of other libraries as prompts, tokens and logits: read whatever their layout is."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from edgellama import Llama
from edgellama.quant.errors import EdgellamaError, InvalidOptionError
from edgellama.quant.given_arrays import given_array, given_index
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.sampler import Sampler

TOKENS = [19556, 905, 28]
STRIDED = np.repeat(np.array(TOKENS), 2)[::2]


class Exchanged:
    """An array that other libraries get by DLPack alone."""

    def __init__(self, numbers: Any) -> None:
        self._numbers = np.asarray(numbers)

    def __dlpack__(self, **options: Any) -> Any:
        return self._numbers.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._numbers.__dlpack_device__()


class Tensor:
    """What torch's tensors do: NumPy is refused before ``detach``, or for lack of a type."""

    def __init__(self, numbers: Any, *, has_gradient: bool = False, is_typed: bool = True) -> None:
        self._numbers = np.asarray(numbers)
        self._has_gradient, self._is_typed = has_gradient, is_typed
        self.shape = self._numbers.shape

    def detach(self) -> Tensor:
        return Tensor(self._numbers, is_typed=self._is_typed)

    def tolist(self) -> Any:
        return self._numbers.tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if self._has_gradient:
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
        if not self._is_typed:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return self._numbers

    def __index__(self) -> int:
        if self._numbers.dtype.kind not in "iu":
            raise TypeError("only integer tensors of a single element can be an index")
        return int(self._numbers)


ARRAYS: dict[str, Any] = {
    "numpy": np.array(TOKENS, np.int32),
    "numpy, strided": STRIDED,
    "numpy, backwards": np.array(TOKENS[::-1])[::-1],
    "numpy, big-endian": np.array(TOKENS, ">u2"),
    "DLPack": Exchanged(TOKENS),
    "DLPack, strided": Exchanged(STRIDED),
    "tensor, strided": Tensor(STRIDED),
    "tensor with a gradient": Tensor(TOKENS, has_gradient=True),
    "tensor of a type that NumPy lacks": Tensor(TOKENS, is_typed=False),
    "a batch of one": Tensor([TOKENS]),
    "a view of memory": memoryview(array("i", TOKENS)),
    "single numbers": [Tensor(token) for token in TOKENS],
}


@pytest.fixture(scope="module")
def llama(smollm2_path: Any) -> Any:
    """The starter model with little room."""
    with Llama(smollm2_path, context_length=64, num_threads=1) as model:
        yield model


@pytest.mark.parametrize("name", ARRAYS)
def test_tokens_may_be_any_array(llama: Llama, name: str) -> None:
    """A prompt, decoded tokens and a score are those of the same numbers in a list."""
    wanted: Any = {"max_tokens": 2, "temperature": 0}
    given = ARRAYS[name]
    assert llama.generate(given, **wanted).tokens == llama.generate(TOKENS, **wanted).tokens
    assert llama.tokenizer.decode(given) == llama.tokenizer.decode(TOKENS)
    assert llama.score(given).logprob == llama.score(TOKENS).logprob


def test_rows_are_prompts_of_a_batch(llama: Llama) -> None:
    """An array of two rows is two prompts there, and stop tokens may be an array."""
    wanted: Any = {"max_tokens": 2, "temperature": 0}
    alone = llama.generate(TOKENS, **wanted)
    for rows in (np.array([TOKENS] * 2), [Tensor(TOKENS)] * 2):
        found = list(llama.generate_batch(rows, **wanted))
        assert [each.tokens for each in found] == [alone.tokens] * 2
    stopped = llama.generate(TOKENS, **wanted, stop_tokens=Tensor([alone.tokens[0]]))  # type: ignore[arg-type]
    assert stopped.matched_stop == alone.tokens[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.array([TOKENS] * 2), r"shape \(2, 3\); .*generate_batch takes several"),
        (np.array([[TOKENS]]), r"shape \(1, 1, 3\); allowed: text, or token ids"),
        (Tensor([1.0, 2.0]), "an array of float64"),
        (np.array([True]), "an array of bool"),
        (np.array(5), r"shape \(\); allowed"),
        (Exchanged([-1]), "token -1 in the prompt; allowed: 0 to 49151"),
        (Tensor([2**40]), "token 1099511627776 in the prompt"),
        (np.array([], np.int32), "the prompt is empty"),
        (memoryview(b"bytes"), "decode bytes first"),
        (Tensor([0.5], has_gradient=True), "an array of float64"),
    ],
)
def test_other_arrays_are_refused(llama: Llama, given: Any, message: str) -> None:
    """The error tells type and shape, and what several rows are for."""
    with pytest.raises(InvalidOptionError, match=message):
        llama.generate(given)
    if getattr(given, "shape", ()) not in ((0,), (1,)):
        with pytest.raises(EdgellamaError, match="allowed: "):
            llama.tokenizer.decode([given] if isinstance(given, memoryview) else given)


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: Exchanged(np.repeat(-logits, 2)[::2]),
        lambda logits: Tensor(-logits, has_gradient=True),
        lambda logits: Tensor(-logits, is_typed=False),
    ],
)
def test_processors_and_samplers_may_give_any_array(change: Any) -> None:
    """Logits of any library and layout count, and so does a token as an array's single number."""
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    greedy = SamplingOptions(temperature=0)
    assert Sampler(greedy, processors=[lambda rows, tokens: change(rows)])(logits, []) == 0
    chosen = Sampler(greedy, choose=lambda rows, tokens: Tensor(2))  # type: ignore[arg-type,return-value]
    assert chosen(logits, []) == 2


def test_what_is_no_array_is_none() -> None:
    """Lists, texts, bytes, classes and truths are left to who asks."""
    assert all(given_array(each) is None for each in ([1], "a", b"a", memoryview(b"a"), Tensor, 5))
    assert [given_index(each) for each in (True, np.True_, 1.0, "1", None)] == [None] * 5
    assert [given_index(each) for each in (7, np.uint8(7), np.array(7), Tensor(7))] == [7] * 4
    assert given_index(np.array([7])) == 7
    assert [given_index(np.array(each)) for each in ([True], [1.0], [1, 2])] == [None] * 3
