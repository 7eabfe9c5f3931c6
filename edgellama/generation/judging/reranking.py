"""Orders documents by how well they answer a query: how probably a model says yes.

The common beginning of all prompts is computed once, and then forked. ``in_order`` decides how many
documents run together, and ``rank_prompt`` writes the question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product

from edgellama.engine.pages.page_keys import shared_length
from edgellama.engine.pages.text_cache import TextCache
from edgellama.engine.scheduling.cancellation import CancelToken
from edgellama.engine.scheduling.work import Work
from edgellama.engine.text_engine import TextEngine
from edgellama.engine.weights.adapter_set import AdapterSet
from edgellama.generation.concurrency.in_order import Begun, BegunTexts, InOrder
from edgellama.generation.concurrency.waiting_line import WaitingLine
from edgellama.generation.decoding.logprobs import share
from edgellama.generation.judging.rank_prompt import HowToRank, RankPrompt
from edgellama.quant.error_text import shown
from edgellama.quant.errors import ContextLengthError, InvalidOptionError
from edgellama.quant.records import dataclass
from edgellama.quant.ways import Way
from edgellama.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Ranked:
    """A document with its score.

    ``index`` is its number among the documents, from 0, and ``document`` its text. ``score``, from
    0 to 1, is the probability of yes against no. Its prompt has ``num_tokens`` tokens;
    ``num_dropped`` tokens of the document were left out.

    Example:
        >>> from edgellama import Llama
        >>> with Llama("smollm2", context_length=512) as llama:
        ...     best = llama.rerank("Who wrote Faust?", ["Goethe wrote Faust.", "It rains."])[0]
        >>> 0 <= best.score <= 1, best.document in ("Goethe wrote Faust.", "It rains.")
        (True, True)
    """

    index: int
    document: str
    score: float
    num_tokens: int
    num_dropped: int = 0


@dataclass(frozen=True)
class Reranker:
    """Scores documents with one model; ``context_length`` is how long a prompt may be.

    ``line``: where they wait for their turn.
    """

    engine: TextEngine
    prompt: RankPrompt
    context_length: int
    how: HowToRank
    adapters: AdapterSet
    line: WaitingLine

    def each(self, documents: Sequence[str]) -> InOrder[Ranked]:
        """The documents with their scores, in the order in which they were given."""
        answers = answer_tokens(self.prompt.tokenizer, self.how.answers)
        return InOrder(self.engine, self.line, partial(self._begun, documents, answers))

    def _begun(
        self, documents: Sequence[str], answers: Sequence[Sequence[int]], cancel: CancelToken
    ) -> BegunTexts[Ranked]:
        prompts = [self._fitting(index, document) for index, document in enumerate(documents)]
        if not prompts:
            return
        base = self._shared([tokens for tokens, _ in prompts], cancel)
        try:
            for index, (tokens, num_dropped) in enumerate(prompts):
                cache = base.fork()
                left = tokens[cache.reuse(tokens) :]
                work = self.engine.work(left, cache, logits="last", cancelled=cancel)
                ranked = partial(Ranked, index, documents[index])
                yield Begun(
                    work, cache, partial(_score, work, answers, ranked, len(tokens), num_dropped)
                )
        finally:
            base.close()

    def _shared(self, prompts: Sequence[Sequence[int]], cancel: CancelToken) -> TextCache:
        """A cache with what all prompts begin with; with nothing, if there is only one."""
        longest = max(map(len, prompts))
        cache = self.engine.new_cache(longest, adapters=self.adapters, is_passing=True)
        if len(prompts) > 1:
            first = prompts[0][:-1]
            shared = min(shared_length(first, other[:-1]) for other in prompts[1:])
            self.engine.forward(prompts[0][:shared], cache, logits="none", cancelled=cancel)
        return cache

    def _fitting(self, index: int, document: str) -> tuple[list[int], int]:
        """The prompt's tokens, and how many of the document had to go so that it fits."""
        tokens = self.prompt.tokens(document)
        if len(tokens) <= self.context_length:
            return tokens, 0
        if not self.how.truncate:
            raise self._too_long(f"the prompt of document {index}", len(tokens))
        own = self.prompt.tokenizer.encode(document, add_bos=False)
        kept, length = len(own), len(tokens)
        while kept and length > self.context_length:
            kept = max(0, kept - (length - self.context_length))
            tokens = self.prompt.tokens(self.prompt.tokenizer.decode(own[:kept]).rstrip("\ufffd"))
            length = len(tokens)
        if length > self.context_length:
            raise self._too_long("the prompt without a document", length)
        return tokens, len(own) - kept

    def _too_long(self, what: str, length: int) -> ContextLengthError:
        return ContextLengthError(
            f"{what} has {length} tokens, the context {self.context_length}",
            length,
            self.context_length,
            way=Way(
                "shorten it, raise context_length, or let truncate=True drop ends of documents",
                "shorten it, raise --context, or let --truncate drop ends of documents",
            ),
        )


def as_documents(documents: Iterable[str]) -> Sequence[str]:
    """All documents; InvalidOptionError for one text, or what is no text."""
    if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Iterable):
        raise InvalidOptionError(f"documents is {documents!r:.80}; allowed: several texts")
    texts = tuple(documents)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidOptionError(f"document {index} is {text!r:.80}; allowed: a text")
    return texts


def best_first(ranked: Iterable[Ranked], top_n: int | None) -> tuple[Ranked, ...]:
    """The best by score; of equal ones the first that was given."""
    return tuple(sorted(ranked, key=lambda each: -each.score)[:top_n])


def answer_tokens(tokenizer: Tokenizer, answers: Sequence[str]) -> list[list[int]]:
    """The tokens that begin each answer, as a model may write it; InvalidOptionError if none do.

    Whole words come first; only where an answer is no token in any spelling its first one counts.
    """
    found: list[set[int]] = []
    for word in answers:
        spellings = {word, word.lower(), word.capitalize(), word.upper()}
        texts = [space + spelling for space, spelling in product(("", " "), spellings)]
        rows = [tokenizer.encode(text, add_bos=False) for text in texts]
        whole = {row[0] for row in rows if len(row) == 1}
        found.append(whole or {row[0] for row in rows if row})
    both = found[0] & found[1]
    rows = [sorted(tokens - both) for tokens in found]
    if not all(rows):
        raise InvalidOptionError(
            f"answers are {shown(answers[0])} and {shown(answers[1])}, which begin with the same "
            "tokens; allowed: two that differ from the first on"
        )
    return rows


def _score(
    work: Work,
    answers: Sequence[Sequence[int]],
    ranked: partial[Ranked],
    num_tokens: int,
    num_dropped: int,
) -> Ranked:
    """The probability that the next token says yes rather than no."""
    (logits,) = work.result(0)
    yes, no = answers
    return ranked(score=share(logits, yes, no), num_tokens=num_tokens, num_dropped=num_dropped)
