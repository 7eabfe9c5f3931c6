"""What all tokenizers share: everything that does not depend on how words become tokens.

It splits at special tokens, adds BOS and EOS, and turns tokens back into bytes and text. The kinds
of tokenizer only say how a stretch of plain text is cut.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from operator import index
from typing import ClassVar, TypeVar, cast

from edgellama.quant.error_text import shown
from edgellama.quant.errors import TokenizerError
from edgellama.quant.given_arrays import given_array
from edgellama.quant.process_bound import ProcessBound
from edgellama.quant.vocabulary.added_tokens import AddedTokenRules
from edgellama.quant.vocabulary.infill_names import found_infill_ids
from edgellama.quant.vocabulary.special_tokens import SpecialTokens
from edgellama.quant.vocabulary.vocabulary import TokenType, Vocabulary
from edgellama.text.surrogates import replace_surrogates, well_formed
from edgellama.text.tokenizer.added_tokens import AddedTokenMatcher, Stretch

Derived = TypeVar("Derived")


class Tokenizer(ProcessBound, ABC):
    """Turns text into token ids and back, for one model. Threads may share it."""

    # How bytes that are not UTF-8 decode: "replace" gives one U+FFFD for each maximal
    # invalid part, "surrogateescape" one for each byte (after replace_surrogates).
    decode_errors: ClassVar[str] = "replace"
    # Whether bytes on both sides of a control token never make one character together.
    controls_end_characters: ClassVar[bool] = False
    # Whether all user-defined tokens are looked for in any text, or only those the file lists.
    matches_user_defined: ClassVar[bool] = False

    def __init__(
        self, vocabulary: Vocabulary, special: SpecialTokens, rules: AddedTokenRules
    ) -> None:
        self.special = special
        self._vocabulary = vocabulary
        self._rules = rules
        self._derived: dict[object, object] = {}
        self._of_thread = threading.local()
        # Without types, only the declared roles tell a control token from text.
        self._untyped_control = () if vocabulary.has_types else (special.bos_id, special.eos_id)

    def derived(self, make: Callable[[Tokenizer], Derived]) -> Derived:
        """The result of ``make`` for this tokenizer, made once and kept with the tokenizer."""
        if make not in self._derived:
            self._derived.setdefault(make, make(self))
        return cast(Derived, self._derived[make])

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self._vocabulary.tokens)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} vocab_size={self.vocab_size}>"

    def encode(
        self, text: str, *, add_bos: bool | None = None, parse_special: bool = False
    ) -> list[int]:
        """The token ids of a text.

        Arguments:
            text: Any text; lone surrogates are read as U+FFFD.
            add_bos: None (the default) adds BOS and EOS as the model wants them, True adds only
                BOS, False adds neither. A text that starts with a parsed BOS gets no second one.
            parse_special: Read control tokens such as "<|im_end|>" in the text. False (the
                default) keeps them as text.

        Returns:
            The ids, an empty list for an empty text without BOS and EOS.

        Raises:
            TokenizerError: No string, or ``add_bos`` is True and the model has no BOS.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=64) as llama:
            ...     llama.tokenizer.encode("Hello world", add_bos=False)
            [19556, 905]
        """
        if not isinstance(text, str):
            raise TokenizerError(f"the text to encode is {shown(text)}; allowed: a string")
        if add_bos and self.special.bos_id is None:
            raise TokenizerError("add_bos is True, but the model has no BOS token")
        tokens: list[int] = []
        for part in self.split_special(well_formed(text), parse_special=parse_special):
            tokens += [part] if isinstance(part, int) else self._encode_text(part)
        bos, eos = self.special.bos_id, self.special.eos_id
        wants_bos = self.special.add_bos if add_bos is None else add_bos
        if wants_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        if add_bos is None and self.special.add_eos and eos is not None:
            tokens.append(eos)
        return tokens

    @contextmanager
    def checked_by(self, check: Callable[[], None]) -> Iterator[None]:
        """Call a function again and again while this thread encodes; its error ends that.

        For giant texts, which take seconds and may be unwanted by then.

        Arguments:
            check: Takes nothing; called before each word, and within giant ones.

        Returns:
            A context manager.

        Raises:
            TokenizerError: No function.

        Example:
            >>> from edgellama import Llama
            >>> def give_up() -> None:
            ...     raise TimeoutError("nobody waits for it")
            >>> with Llama("smollm2", context_length=64) as llama:
            ...     with llama.tokenizer.checked_by(give_up):
            ...         llama.tokenizer.encode("Hello world")
            Traceback (most recent call last):
            TimeoutError: nobody waits for it
        """
        if not callable(check):
            raise TokenizerError(f"check is {shown(check)}; allowed: a function of nothing")
        before, self._of_thread.check = self._current_check, check
        try:
            yield
        finally:
            self._of_thread.check = before

    @property
    def _current_check(self) -> Callable[[], None]:
        return getattr(self._of_thread, "check", _go_on)

    def min_tokens(self, text: str) -> int:
        """Return at once a number of tokens that a text has at least, from its length alone.

        Arguments:
            text: Any text, however long.

        Returns:
            How many tokens there are at least; 0 if nothing is sure, as in a vocabulary whose
            tokens take white space with them.

        Raises:
            TokenizerError: No string.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=64) as llama:
            ...     llama.tokenizer.min_tokens("hello " * 1_000_000) > llama.context_length
            True
        """
        if not isinstance(text, str):
            raise TokenizerError(f"the text is {shown(text)}; allowed: a string")
        if self._rules.lstrip or self._rules.rstrip:
            return 0
        return self._num_kept_bytes(text) // self._longest_token_bytes

    @cached_property
    def _longest_token_bytes(self) -> int:
        return max(1, self._vocabulary.longest_bytes)

    def _num_kept_bytes(self, text: str) -> int:
        """How many bytes of a text surely become tokens."""
        return 0

    def split_special(self, text: str, *, parse_special: bool = True) -> list[Stretch | int]:
        """The text cut at special tokens: ids of those, and the stretches between them.

        The leftmost and then longest match wins, as in Hugging Face tokenizers. User-defined
        tokens count as special here where they are looked for in any text.
        """
        return (self._special if parse_special else self._user_defined).split(Stretch(text))

    def encode_stretch(self, stretch: Stretch) -> list[int]:
        """Tokens of well-formed text between control tokens; user-defined ones are found in it."""
        tokens: list[int] = []
        for part in self._user_defined.split(stretch):
            tokens += [part] if isinstance(part, int) else self._encode_text(part)
        return tokens

    @property
    def opens_with_space(self) -> bool:
        """Whether encoding puts a space before a text that has none."""
        return False

    @cached_property
    def infill_ids(self) -> Mapping[str, int]:
        """Ids of tokens for infilling by role, as the file declares them, else by well-known names.
        Empty for a model without them; without ``fim_mid`` if no token stands before the wanted
        text.
        """
        return found_infill_ids(self._vocabulary.tokens, self.special.infill_ids)

    def control_texts(self) -> list[str]:
        """The texts of tokens that only a template or ``parse_special`` may produce."""
        ids = self._vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN)
        return [text for text in map(self._vocabulary.text, ids) if text]

    def decode(
        self, tokens: Sequence[int], *, skip_special: bool = True, continuation: bool = False
    ) -> str:
        """The text of some tokens; invalid UTF-8 becomes U+FFFD.

        Arguments:
            tokens: Ids from 0 to ``vocab_size - 1``.
            skip_special: Leave control tokens out. True by default.
            continuation: The tokens continue a text, so keep a first space, which is otherwise
                taken for the one that encoding adds. False by default.

        Returns:
            The text.

        Raises:
            TokenizerError: An id that the vocabulary does not have.

        Example:
            >>> from edgellama import Llama
            >>> with Llama("smollm2", context_length=64) as llama:
            ...     llama.tokenizer.decode([19556, 905])
            'Hello world'
        """
        array = None if isinstance(tokens, (list, tuple)) else given_array(tokens)
        if array is not None and array.ndim in (1, 2):
            # Other tokenizers give an array of one row for one text.
            tokens = array.reshape(-1).tolist() if 1 in (array.ndim, len(array)) else [*array]
        elif (
            isinstance(tokens, (str, bytes))
            or array is not None
            or not isinstance(tokens, Iterable)
        ):
            raise TokenizerError(f"the tokens are {shown(tokens)}; allowed: a list of token ids")
        at_start, parts = not continuation, [bytearray()]
        for token in tokens:
            if at_start:
                data, at_start = self.opening_bytes(token, skip_special=skip_special)
            else:
                data = self.token_bytes(token, skip_special=skip_special)
            if self.controls_end_characters and self.is_control(token):
                parts.append(bytearray())
            parts[-1] += data
        text = "".join(part.decode("utf-8", self.decode_errors) for part in parts)
        return replace_surrogates(text)

    def is_control(self, token: int) -> bool:
        """Whether a token has no text of its own and is usually skipped."""
        self._check(token)
        token_type = self._vocabulary.types[token]
        return bool(token_type == TokenType.CONTROL or token in self._untyped_control)

    def token_bytes(self, token: int, *, skip_special: bool = True) -> bytes:
        """The bytes of a token inside a text; none for a skipped control token."""
        if self.is_control(token):
            return b"" if skip_special else self._vocabulary.tokens[token]
        return self._plain_bytes(token, self._vocabulary.types[token])

    def opening_bytes(self, token: int, *, skip_special: bool = True) -> tuple[bytes, bool]:
        """Bytes of a token where a text may begin, and whether the next one may still open it."""
        data = self.token_bytes(token, skip_special=skip_special)
        return data, not data

    def token_text(self, token: int) -> str:
        """A token as the vocabulary writes it, for display."""
        self._check(token)
        return self._vocabulary.text(token)

    @abstractmethod
    def _encode_text(self, stretch: Stretch) -> list[int]:
        """Tokens of a well-formed stretch without special tokens."""

    @abstractmethod
    def _plain_bytes(self, token: int, token_type: int) -> bytes:
        """Bytes of a valid token that is not a control token."""

    def _check(self, token: int) -> None:
        try:
            is_known = 0 <= index(token) < self.vocab_size
        except TypeError:
            is_known = False
        if not is_known:
            raise TokenizerError(f"token {shown(token)}; allowed: 0 to {self.vocab_size - 1}")

    @cached_property
    def _special(self) -> AddedTokenMatcher:
        return self._matcher(self._vocabulary.ids_of(TokenType.CONTROL, TokenType.UNKNOWN))

    @cached_property
    def _user_defined(self) -> AddedTokenMatcher:
        return self._matcher([])

    def _matcher(self, control: Sequence[int]) -> AddedTokenMatcher:
        """Look for these tokens, and for the user-defined ones that are found in any text."""
        matched = self._vocabulary.ids_of(TokenType.USER_DEFINED)
        if not self.matches_user_defined:
            matched = [token for token in matched if token in self._rules.added]
        ids = sorted([*control, *matched], reverse=True)
        texts = {text: token for token in ids if (text := self._vocabulary.text(token))}
        return AddedTokenMatcher(texts, self._rules)


def _go_on() -> None:
    """The check of callers that never give up."""
