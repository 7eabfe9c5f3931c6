"""The question to a model about a query and a document, and how its answers are read.

``reranking`` scores the prompts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, TypeGuard

from edgellama.engine.weights.adapter_shelf import AdapterScales
from edgellama.generation.chat.chat_reasoning import ChatReasoning
from edgellama.quant.errors import InvalidOptionError
from edgellama.quant.records import dataclass
from edgellama.sampling.options import check_option_names
from edgellama.text.chat_template import ChatTemplate
from edgellama.text.chat_tokens import encode_chat
from edgellama.text.tokenizer import Tokenizer

PROMPT = """\
Judge whether the document is relevant to the question. Answer yes or no.

Question: {query}
Document: {document}
Relevant:"""
"""Of some wordings the one by which a small model ranks best, as a chat's message."""
PROMPT_KEY = "tokenizer.chat_template.rerank"
"""Under which files of Qwen3-Reranker have the prompt of their training."""
ANSWERS = ("yes", "no")
PARAMETERS = ("query", "documents", "top_n")
PLACEHOLDER = re.compile(r"\{(query|document)\}")


class RerankOptions(TypedDict, total=False):
    """How documents are ranked, as keyword arguments of ``rerank``.

    Arguments:
        prompt: The question to the model, a text with {query} and {document}. None (the default)
            is the file's own, as those of Qwen3-Reranker have it, or else asks "Judge whether the
            document is relevant to the question. Answer yes or no." The part before the document is
            computed once for all documents.
        answers: The words for yes and for no, ("yes", "no") by default. Forms with a capital letter
            or a space before them count, too.
        chat: Send the prompt in the model's chat format. None (the default) does so if it has one.
            False uses the prompt as it is, and reads control tokens in it.
        template: Chat format in place of the file's: the name of a published one or Jinja source.
            None (the default) is the file's.
        truncate: Drop the end of documents whose prompt is longer than the context. False (the
            default) refuses them.
        adapters: Loaded adapters, or their names, with scales, such as ``{"french": 0.5}``. None
            (the default) is none.

    Example:
        >>> from edgellama import Llama, RerankOptions
        >>> options: RerankOptions = {"prompt": "{query}: {document}", "answers": ("ja", "nein")}
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     len(llama.rerank("Farbe", ["rot", "laut"], **options))
        2
    """

    prompt: str | None
    answers: tuple[str, str]
    chat: bool | None
    template: str | None
    truncate: bool
    adapters: AdapterScales | None


@dataclass(frozen=True)
class HowToRank:
    """RerankOptions, checked; adapters and templates are for others to find."""

    prompt: str | None = None
    answers: Sequence[str] = ANSWERS
    truncate: bool = False
    chat: bool | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None and not _has_places(self.prompt):
            raise InvalidOptionError(
                f"prompt is {self.prompt!r:.80}; allowed: text with {{query}} and {{document}}"
            )
        is_row = isinstance(self.answers, (tuple, list)) and len(self.answers) == 2
        if not is_row or not all(isinstance(word, str) and word for word in self.answers):
            raise InvalidOptionError(
                f"answers is {self.answers!r:.80}; allowed: two texts, for yes and for no"
            )
        if not isinstance(self.truncate, bool):
            raise InvalidOptionError(f"truncate is {self.truncate!r:.80}; allowed: True, False")
        if not (self.chat is None or isinstance(self.chat, bool)):
            raise InvalidOptionError(f"chat is {self.chat!r:.80}; allowed: True, False, None")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> HowToRank:
        """What was given."""
        check_option_names(options, tuple(RerankOptions.__annotations__), PARAMETERS)
        known = ("prompt", "answers", "truncate", "chat")
        return cls(**{name: options[name] for name in known if name in options})


@dataclass(frozen=True)
class RankPrompt:
    """Makes the tokens of a query's prompts; ``template`` None takes the prompt as it stands."""

    tokenizer: Tokenizer
    query: str
    prompt: str | None
    template: ChatTemplate | None

    def __post_init__(self) -> None:
        if not isinstance(self.query, str):
            raise InvalidOptionError(f"query is {self.query!r:.80}; allowed: a text")

    def tokens(self, document: str) -> list[int]:
        """The prompt of a document; no control token comes from it or from the query."""
        texts = {"query": self.query, "document": document}
        if self.template is not None:
            content = PLACEHOLDER.sub(lambda found: texts[found[1]], self.prompt or PROMPT)
            # Behind the thinking, as the answer is the next token.
            reasoning = ChatReasoning(self.tokenizer, self.template)
            variables: dict[str, Any] = reasoning.variables(False, {})
            messages = [{"role": "user", "content": content}]
            asked = encode_chat(self.tokenizer, self.template, messages, **variables)
            return reasoning.ended(asked, reasoning.marks(False), False)
        messages = [{"role": role, "content": text} for role, text in texts.items()]
        return encode_chat(self.tokenizer, _as_template(self.prompt or PROMPT), messages)


def own_prompt(metadata: Mapping[str, Any]) -> str | None:
    """The prompt that a file brings; None if it has none with places for a query and a document."""
    prompt = metadata.get(PROMPT_KEY)
    return prompt if _has_places(prompt) else None


def _has_places(prompt: object) -> TypeGuard[str]:
    return isinstance(prompt, str) and {"query", "document"} <= {*PLACEHOLDER.findall(prompt)}


def _as_template(prompt: str) -> ChatTemplate:
    """A prompt as the template of messages that are the query and the document."""
    parts = []
    for number, part in enumerate(PLACEHOLDER.split(prompt)):
        name = f"messages[{0 if part == 'query' else 1}].content"
        parts.append("{{ " + (name if number % 2 else json.dumps(part)) + " }}")
    return ChatTemplate("".join(parts), bos_token="", eos_token="")
