"""Composes the stages once into a function from logits to the next token.

If a kernel knows the last stages, it replaces them, and finds the same tokens faster. The sampler
does not know where logits come from, or when a text ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from edgellama.quant.errors import InvalidOptionError
from edgellama.sampling.candidates import Candidates
from edgellama.sampling.chance import Chance, SeededChance
from edgellama.sampling.dry import Breaks
from edgellama.sampling.filters import Logits, Mask, check_finite, draw, greedy
from edgellama.sampling.options import SamplingOptions
from edgellama.sampling.stages import WEAKENING, SparedTokens, Stage, active_stages, cooled
from edgellama.sampling.user_functions import Processor, TokenChoice, chosen_token, processed

if TYPE_CHECKING:
    from edgellama.kernels_cpu.compiling.code_cache import CompiledKernels
    from edgellama.sampling.mirostat import Mirostat

KERNEL_STAGES = ("top_k", "top_p", "min_p", "temperature")
"""What the kernel does, in this order."""
MAX_TOP_K = 2**31 - 1
"""More than any vocabulary has; kernels take no greater number."""
Choose: TypeAlias = Callable[[Logits, float], int | None]


class Sampler:
    """Chooses the tokens of one text, whose history only grows or is cut; for one thread.

    It holds its own source of ``chance``. Where the likeliest logit is not finite, which only a
    broken model produces, it raises EdgellamaError.
    """

    def __init__(
        self,
        options: SamplingOptions,
        kernels: CompiledKernels | None = None,
        *,
        end_tokens: Collection[int] = (),
        stop_tokens: Collection[int] = (),
        breaks: Breaks = lambda token: False,
        bias: Mapping[int, float] | None = None,
        prompt_length: int = 0,
        own_tokens: Sequence[int] = (),
        processors: Sequence[Processor] = (),
        choose: TokenChoice | None = None,
    ) -> None:
        """With ``kernels``, compiled code chooses the same tokens in a fraction of the time.

        ``end_tokens`` end a text, so penalties spare them, and so do ``stop_tokens``, which
        ``ignore_eos`` does not concern; ``breaks`` says at which tokens DRY's sequences end.
        ``bias``: what is added to logits, by token. ``prompt_length``: tokens of the history
        that do not count for ``min_tokens``. Without ``penalize_prompt`` stages see
        ``own_tokens`` in their place. ``processors`` change the logits before all else,
        ``choose`` stands in for all stages.
        """
        self._processors, self._choose = tuple(processors), choose
        self._temperature = float(np.float32(options.temperature))
        ends, all_ends = frozenset(end_tokens), frozenset((*end_tokens, *stop_tokens))
        self._own_tokens = None if options.penalize_prompt else tuple(own_tokens)
        self._prompt_length = prompt_length
        self._early_length = prompt_length + options.min_tokens
        self._forbidden_early = np.array(sorted(all_ends), np.intp)
        self._forbidden = np.array(sorted(ends) if options.ignore_eos else [], np.intp)
        bias = bias or {}
        self._biased = np.fromiter(bias, dtype=np.intp, count=len(bias))
        self._bias = np.fromiter(bias.values(), dtype=np.float32, count=len(bias))
        self.chance = SeededChance(options.seed)
        self._mirostat = _mirostat(options) if options.mirostat and self._temperature else None
        stages = active_stages(options, SparedTokens(all_ends, breaks))
        if not self._temperature:
            stages = {name: stage for name, stage in stages.items() if name in WEAKENING}
        head, tail = (stages, {}) if self._mirostat else _split(stages, options)
        self._head, self._tail = list(head.values()), list(tail.values())
        # The draw divides by the temperature, after it has subtracted the largest logit.
        self._last_temperature = 1.0
        if "temperature" in tail:
            self._tail.pop()
            self._last_temperature = self._temperature
        self._kernel: Choose | None = None
        if kernels is not None and self._temperature and self._mirostat is None:
            self._kernel = _kernel_choice(options, kernels, tail, self._last_temperature)
        self.num_chances = (1 + ("xtc" in stages)) if self._temperature else 0

    def __call__(
        self,
        logits: Logits,
        history: Sequence[int],
        allowed: Mask | None = None,
        chance: Chance | None = None,
    ) -> int:
        """The next token, from float32 logits (vocab_size,) and the tokens so far.

        ``allowed`` (vocab_size,): which tokens may be chosen; None is all of them. ``chance``:
        where the ``num_chances`` random numbers of a choice come from; None is the own seed.
        """
        chance = self.chance if chance is None else chance
        candidates = Candidates(self._prepared(logits, history, allowed))
        if self._choose is not None:
            return chosen_token(candidates.logits, tuple(history), self._choose)
        history = self._counted(history)
        for stage in self._head:
            candidates = stage(candidates, history, chance)
        if not self._temperature:
            return candidates.token(greedy(candidates.logits))
        if self._mirostat is not None:
            check_finite(candidates.logits.max())
            return candidates.token(self._mirostat(candidates.logits, chance.random()))
        fraction = chance.random()
        if self._kernel is not None:
            index = self._kernel(candidates.logits, fraction)
            if index is not None:
                return candidates.token(index)
        check_finite(candidates.logits.max())
        for stage in self._tail:
            candidates = stage(candidates, history, chance)
        return candidates.token(draw(candidates.logits, self._last_temperature, fraction))

    def chances(self, logits: Logits, history: Sequence[int]) -> npt.NDArray[np.float64]:
        """The probability of every token (vocab_size,) to be chosen now; nothing is chosen.

        Where XTC is on, its die is thrown, as for a choice.
        """
        candidates = Candidates(self._prepared(logits, history, None))
        history = self._counted(history)
        for stage in (*self._head, *self._tail):
            candidates = stage(candidates, history, self.chance)
        if self._mirostat is not None:
            candidates = candidates.kept(self._mirostat.keep(candidates.logits))
        if not self._temperature:
            candidates = cooled(candidates, 0.0)
        chances = np.zeros(len(logits))
        below = (candidates.logits - candidates.logits.max()).astype(np.float64)
        weights = np.exp(below / self._last_temperature)
        chances[slice(None) if candidates.tokens is None else candidates.tokens] = weights
        chances /= weights.sum()
        return chances

    def _counted(self, history: Sequence[int]) -> Sequence[int]:
        """The tokens that stages look back at."""
        if self._own_tokens is None or not self._head:
            return history
        return [*self._own_tokens, *history[self._prompt_length :]]

    def _prepared(self, logits: Logits, history: Sequence[int], allowed: Mask | None) -> Logits:
        """The logits with all that is said of single tokens; a copy if anything is."""
        is_early = len(history) < self._early_length
        forbidden = self._forbidden_early if is_early else self._forbidden
        is_changed = len(forbidden) or len(self._biased) or self._processors
        if allowed is None and not is_changed and self._choose is None:
            return logits if self._temperature == 0 else np.asarray(logits, np.float32)
        check_finite(logits.max())
        changed = processed(logits, tuple(history), self._processors)
        changed[self._biased] += self._bias
        changed[forbidden] = -np.inf
        if allowed is not None:
            changed[~allowed] = -np.inf
        if changed.max() == -np.inf:
            raise InvalidOptionError(
                "no token is left to choose; allowed: logit_bias, min_tokens, ignore_eos, banned, "
                "processors and what the text must match leave at least one together"
            )
        return changed


def _mirostat(options: SamplingOptions) -> Mirostat:
    from edgellama.sampling.mirostat import Mirostat

    return Mirostat(options)


def _split(
    stages: Mapping[str, Stage], options: SamplingOptions
) -> tuple[dict[str, Stage], dict[str, Stage]]:
    """The stages before, and those at the end that a draw or the kernel takes over."""
    names = list(stages)
    tail: list[str] = []
    while names and names[-1] in KERNEL_STAGES:
        place = KERNEL_STAGES.index(names[-1])
        is_in_order = not tail or place < KERNEL_STAGES.index(tail[0])
        # What follows a plain division of logits takes them divided.
        is_plain = names[-1] != "temperature" or not options.dynatemp_range
        if not is_in_order or not is_plain:
            break
        tail.insert(0, names.pop())
    return {name: stages[name] for name in names}, {name: stages[name] for name in tail}


def _kernel_choice(
    options: SamplingOptions,
    kernels: CompiledKernels,
    tail: Collection[str],
    temperature: float,
) -> Choose:
    """The stages of ``tail`` and the draw as one kernel; None if it leaves it to them."""
    from edgellama.kernels_cpu.sampling.chooser import TokenChooser

    return TokenChooser(
        kernels,
        top_k=min(int(options.top_k), MAX_TOP_K) if "top_k" in tail else 0,
        top_p=float(options.top_p) if "top_p" in tail else 1.0,
        min_p_distance=math.log(options.min_p) if "min_p" in tail else -math.inf,
        temperature=temperature,
    ).choose
