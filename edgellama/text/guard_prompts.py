"""Prompts of Llama Guard: which version a model is, its categories, and the question to it.

A file's own template is used if it is Llama Guard's; otherwise ours, written after Meta's model
cards. ``generation.judging.moderation`` computes the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from types import MappingProxyType

from edgellama.quant.error_text import shown
from edgellama.quant.errors import InvalidOptionError, TemplateError, UnsupportedModelError
from edgellama.quant.given_values import is_whole
from edgellama.quant.records import dataclass
from edgellama.quant.ways import Way
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.chat_tokens import encode_chat
from edgellama.text.tokenizer.base import Tokenizer

ROLES = MappingProxyType({"user": "User", "assistant": "Agent"})
"""Whose messages are judged, and what Llama Guard calls them."""
_NAME = re.compile(r"llama[-_ ]?guard(?:[-_ ]?(\d+)(b?))?", re.IGNORECASE)
"""With the version behind it, or the size: the first version has no number."""
_SECTION = re.compile(
    r"<BEGIN UNSAFE CONTENT CATEGORIES>(.*?)<END UNSAFE CONTENT CATEGORIES>", re.DOTALL
)
_CATEGORY = re.compile(r"^\s*([A-Z]{1,3}\d{1,3}):\s*(.+?)\.?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class SafetyCategory:
    """A kind of content that is unsafe: the ``code`` that the model answers with, and its ``name``.

    Example:
        >>> from edgellama import SafetyCategory
        >>> SafetyCategory("S1", "Violent Crimes").code
        'S1'
    """

    code: str
    name: str


def _numbered(letter: str, names: Sequence[str]) -> tuple[SafetyCategory, ...]:
    return tuple(SafetyCategory(f"{letter}{n}", name) for n, name in enumerate(names, 1))


@dataclass(frozen=True)
class GuardVersion:
    """What one version was trained with."""

    categories: tuple[SafetyCategory, ...]
    opening: str
    instruction: str
    bullet: str


_HARMS = (
    *("Violent Crimes", "Non-Violent Crimes", "Sex Crimes", "Child Exploitation"),
    *("Specialized Advice", "Privacy", "Intellectual Property", "Indiscriminate Weapons"),
    *("Hate", "Self-Harm", "Sexual Content"),
)
VERSIONS: Mapping[int, GuardVersion] = MappingProxyType(
    {
        1: GuardVersion(
            _numbered(
                "O",
                (
                    *("Violence and Hate", "Sexual Content", "Criminal Planning"),
                    *("Guns and Illegal Weapons", "Regulated or Controlled Substances"),
                    "Self-Harm",
                ),
            ),
            *("[INST]", "{role}", "- "),
        ),
        2: GuardVersion(_numbered("S", _HARMS), *("[INST]", "ONLY THE LAST {role} message", " - ")),
        3: GuardVersion(
            _numbered(
                "S", (*_HARMS[:4], "Defamation", *_HARMS[4:], "Elections", "Code Interpreter Abuse")
            ),
            *("header", "ONLY THE LAST {role} message", " - "),
        ),
    }
)


@dataclass(frozen=True)
class GuardPrompt:
    """The tokens of a prompt, and the categories that it names."""

    tokens: Sequence[int]
    categories: tuple[SafetyCategory, ...]


class Guard:
    """How one model is asked."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        name: object,
        version: int | None = None,
    ) -> None:
        """``template`` and ``name`` are the file's; ``version`` is what the user says it is.

        UnsupportedModelError for a model that is no Llama Guard by its template or its name,
        unless ``version`` is given; InvalidOptionError for a version that there is not.
        """
        if version is not None and not (is_whole(version, 1) and version in VERSIONS):
            raise InvalidOptionError(
                f"version is {version!r:.80}; allowed: {', '.join(map(str, VERSIONS))}"
            )
        self._tokenizer = tokenizer
        self._own = template if version is None and _is_guard(template) else None
        by_name = _version_in(name)
        if version is None and self._own is None and by_name not in VERSIONS:
            raise UnsupportedModelError(
                f"the model, {shown(name)}, is no Llama Guard that is known here",
                way=Way("say which one it is like: version=3", "use a Llama Guard, version 1 to 3"),
            )
        self._version = version or (by_name if by_name in VERSIONS else None)

    def prompt(
        self,
        messages: Sequence[Mapping[str, object]],
        judged: str,
        categories: Sequence[SafetyCategory] | None,
    ) -> GuardPrompt:
        """The question whether the last message of a role is unsafe.

        ``judged`` is the role, ``categories`` are others than the model's own.
        """
        own = self._own_prompt(messages) if categories is None else None
        if own is not None:
            return own
        version = VERSIONS[self._version or self._like_own(messages)]
        used = tuple(version.categories if categories is None else categories)
        role = ROLES[judged]
        tokens = encode_chat(
            self._tokenizer,
            _our_template(self._tokenizer),
            messages,
            judged=role,
            categories=[f"{category.code}: {category.name}." for category in used],
            opening=version.opening,
            instruction=version.instruction.format(role=role),
            bullet=version.bullet,
        )
        return GuardPrompt(tokens, used)

    def _own_prompt(self, messages: Sequence[Mapping[str, object]]) -> GuardPrompt | None:
        """What the file's own template asks; None if it cannot take these messages."""
        rendered = self._rendered(messages)
        found = categories_in(rendered)
        # Some published templates show texts only if they come as parts.
        if self._own is None or not found or str(messages[-1]["content"]).strip() not in rendered:
            return None
        return GuardPrompt(encode_chat(self._tokenizer, self._own, messages), found)

    def _rendered(self, messages: Sequence[Mapping[str, object]]) -> str:
        try:
            return "" if self._own is None else self._own.render(messages)
        except TemplateError:
            return ""

    def _like_own(self, messages: Sequence[Mapping[str, object]]) -> int:
        """The version that the file's own template writes."""
        asked = [{"role": "user", "content": "?"}]
        found = categories_in(self._rendered(messages) or self._rendered(asked))
        first = found[0].code[:1] if found else "S"
        if first == "O":
            return 1
        return 2 if len(found) == len(VERSIONS[2].categories) else 3


def _version_in(name: object) -> int | None:
    found = _NAME.search(name) if isinstance(name, str) else None
    if found is None:
        return None
    return 1 if found[1] is None or found[2] else int(found[1])


def categories_in(prompt: str) -> tuple[SafetyCategory, ...]:
    """The categories that a prompt of Llama Guard names."""
    section = _SECTION.search(prompt)
    if section is None:
        return ()
    return tuple(SafetyCategory(code, name) for code, name in _CATEGORY.findall(section[1]))


def checked_categories(given: object) -> tuple[SafetyCategory, ...] | None:
    """A user's categories: names by code, or names that are numbered; None is the model's own."""
    if given is None:
        return None
    pairs: Sequence[tuple[object, object]] = ()
    if isinstance(given, Mapping):
        pairs = tuple(given.items())
    elif isinstance(given, (list, tuple)):
        pairs = tuple((f"S{number}", name) for number, name in enumerate(given, 1))
    if not pairs or not all(_is_pair(code, name) for code, name in pairs):
        raise InvalidOptionError(
            f"categories is {given!r:.80}; allowed: names of one line each, by codes such as S1, "
            "or a list of them"
        )
    return tuple(SafetyCategory(str(code), str(name).rstrip(". ")) for code, name in pairs)


def _is_pair(code: object, name: object) -> bool:
    is_text = isinstance(code, str) and isinstance(name, str)
    return is_text and _CATEGORY.fullmatch(f"{code}: {name}") is not None


def _is_guard(template: ChatTemplate | None) -> bool:
    return template is not None and "UNSAFE CONTENT CATEGORIES" in template.source


def _our_template(tokenizer: Tokenizer) -> ChatTemplate:
    source = (files("edgellama.text") / "templates" / "llama-guard.jinja").read_text("utf-8")
    bos = tokenizer.special.bos_id
    bos_token = "" if bos is None else tokenizer.token_text(bos)
    return ChatTemplate(source, bos_token=bos_token, eos_token="")
