"""Where SentencePiece text gets a space in front, and what becomes of it: GGUF's keys and ours.

GGUF only says whether a text gets one (``add_space_prefix``). Keys of our own say whether a stretch
behind a special token does, too; their values are those of Hugging Face's Metaspace.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgellama.quant.errors import TokenizerError
from edgellama.quant.records import dataclass
from edgellama.quant.vocabulary.vocabulary import flag

ADDS_SPACE_KEY = "tokenizer.ggml.add_space_prefix"
REMOVES_SPACES_KEY = "tokenizer.ggml.remove_extra_whitespaces"
SCHEME_KEY = "edgellama.tokenizer.prepend_scheme"
SPLITS_WORDS_KEY = "edgellama.tokenizer.split_words"
STRIPS_SPACE_KEY = "edgellama.tokenizer.strip_first_space"
FIRST, ALWAYS, NEVER = "first", "always", "never"
SCHEMES = (FIRST, ALWAYS, NEVER)


@dataclass(frozen=True)
class SpaceRules:
    """How spaces are put before text, and taken away.

    ``scheme``: which stretches between special tokens get a space, unless they begin with one:
    the first of a text, always, or never. None is sentencepiece's own way, where every stretch
    gets one more if ``adds_space``. ``removes_spaces``: runs become one, ends lose theirs.
    ``splits_words``: no token goes on behind a space. ``strips_space``: decoding a text takes a
    first space away.
    """

    adds_space: bool = True
    removes_spaces: bool = False
    scheme: str | None = None
    splits_words: bool = False
    strips_space: bool = True

    def __post_init__(self) -> None:
        if self.scheme is not None and self.scheme not in SCHEMES:
            raise TokenizerError(
                f"{SCHEME_KEY} is {self.scheme!r:.80}; one of {', '.join(SCHEMES)}"
            )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, object]) -> SpaceRules:
        """The rules of a file; TokenizerError for values of another type."""
        adds_space = flag(metadata, ADDS_SPACE_KEY, True)
        removes_spaces = flag(metadata, REMOVES_SPACES_KEY, False)
        scheme = metadata.get(SCHEME_KEY)
        return cls(
            adds_space=adds_space,
            removes_spaces=removes_spaces,
            scheme=None if scheme is None else str(scheme),
            splits_words=flag(metadata, SPLITS_WORDS_KEY, False),
            strips_space=flag(metadata, STRIPS_SPACE_KEY, adds_space or removes_spaces),
        )

    @property
    def lets_library_prefix(self) -> bool:
        """Whether sentencepiece itself puts the space, as where it removes others it must."""
        return self.scheme is None or self.removes_spaces

    def wants_prefix(self, text: str, *, is_first: bool) -> bool:
        """Whether a stretch gets a space; ``is_first``: it begins the text."""
        if self.scheme is None:
            return self.adds_space
        if self.scheme == ALWAYS and self.removes_spaces:
            return True
        wanted = self.scheme == ALWAYS or (self.scheme == FIRST and is_first)
        return wanted and not text.startswith((" ", "\u2581"))
