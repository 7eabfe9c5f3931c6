"""What the defaults of chats cost and save: answers that quote, texts that loop, turns that repeat.

    python benchmarks/chat_defaults.py smollm2
    python benchmarks/chat_defaults.py smollm2 --temperature 0

Each row is one choice of penalties over the same questions.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from edgellama import Llama

CHOICES: Mapping[str, Mapping[str, Any]] = {
    "chat": {"preset": "chat"},
    "with the prompt": {"preset": "chat", "penalize_prompt": True},
    "no penalties": {"preset": "llama.cpp"},
}
FACTS: Sequence[tuple[str, Mapping[str, str]]] = (
    (
        "The invoice number is INV-20391-B and the total is 482.17 euros, due on 14 March 2025.",
        {"What is the invoice number?": "INV-20391-B", "What is the total?": "482.17"},
    ),
    (
        "Contact: Marta Kowalczyk, head of logistics, phone +48 22 555 01 93.",
        {"What is the phone number?": "+48 22 555 01 93", "Who is it?": "Marta Kowalczyk"},
    ),
    (
        "Ferdinand Oyelaran was born in Ibadan and founded the Maasbrug Orchestra in 1988.",
        {"Where was he born?": "Ibadan", "What did he found?": "Maasbrug Orchestra"},
    ),
    (
        "Flight KL1823 departs Berlin at 18:05 from gate A14 and arrives in Amsterdam at 19:30.",
        {"What is the flight number?": "KL1823", "When does it arrive?": "19:30"},
    ),
)
OPEN = (
    *("Tell me a long story about a llama.", "Write an essay about the sea.", "List 30 animals."),
    *("Describe the history of Rome.", "Why do people dream?", "Explain recursion with examples."),
)
TURNS = (
    ("Give me three ideas for dinner.", "Three more, please.", "Three more, please."),
    ("Write a short poem about rain.", "Another one.", "Another one."),
)
SAME_WORDS = 4
LOOP_TOKENS = 6


def main() -> None:
    """Print a row for each choice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    seeds = range(given.seeds if given.temperature else 1)
    with Llama(given.model, context_length=2048) as llama:
        for name, penalties in CHOICES.items():
            options = [
                {**penalties, "temperature": given.temperature, "seed": seed} for seed in seeds
            ]
            right = [hit for option in options for hit in quoted(llama, option)]
            loops = [loop for option in options for loop in looping(llama, option)]
            same = [share for option in options for share in repeated(llama, option)]
            print(
                f"{name:16} right {sum(right)}/{len(right)}, loops {sum(loops)}/{len(loops)}, "
                f"words of earlier turns {sum(same) / len(same):.0%}",
                flush=True,
            )


def replies(llama: Llama, chats: Sequence[Sequence[str]], options: Mapping[str, Any]) -> list[Any]:
    """A result for each chat, whose turns are the user's and the assistant's in alternation."""
    roles = ("user", "assistant")
    prompts = [
        {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(chat)]}
        for chat in chats
    ]
    found = llama.generate_batch(prompts, **options)
    return sorted(found, key=lambda result: result.index)


def quoted(llama: Llama, options: Mapping[str, Any]) -> list[bool]:
    """For each question whether the answer has the words that the message holds."""
    asked = [(f"{text}\n\n{question}",) for text, facts in FACTS for question in facts]
    words = [answer for _, facts in FACTS for answer in facts.values()]
    results = replies(llama, asked, {**options, "max_tokens": 60})
    return [word in result.text for word, result in zip(words, results, strict=True)]


def looping(llama: Llama, options: Mapping[str, Any]) -> list[bool]:
    """For each open question whether the answer's end consists of repetitions."""
    results = replies(llama, [(text,) for text in OPEN], {**options, "max_tokens": 400})
    return [repeating_share(result.tokens[-120:], LOOP_TOKENS) > 0.4 for result in results]


def repeating_share(tokens: Sequence[int], length: int) -> float:
    """How many of the runs of ``length`` tokens occur more than once."""
    runs = Counter(tuple(tokens[n : n + length]) for n in range(len(tokens) - length + 1))
    return sum(count for count in runs.values() if count > 1) / max(1, runs.total())


def repeated(llama: Llama, options: Mapping[str, Any]) -> list[float]:
    """For each later reply of a chat the share of its words that earlier ones had in a row."""
    chats: list[list[str]] = [[] for _ in TURNS]
    shares = []
    for turn in range(len(TURNS[0])):
        for chat, questions in zip(chats, TURNS, strict=True):
            chat.append(questions[turn])
        results = replies(llama, chats, {**options, "max_tokens": 150})
        for chat, result in zip(chats, results, strict=True):
            if turn:
                earlier = word_runs(" ".join(chat[1::2]))
                now = word_runs(result.text)
                shares.append(sum(run in set(earlier) for run in now) / max(1, len(now)))
            chat.append(result.text)
    return shares


def word_runs(text: str) -> list[tuple[str, ...]]:
    """All runs of SAME_WORDS words."""
    words = text.split()
    return [tuple(words[n : n + SAME_WORDS]) for n in range(len(words) - SAME_WORDS + 1)]


if __name__ == "__main__":
    main()
