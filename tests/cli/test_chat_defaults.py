"""What a chat samples with when nobody says anything: on the real starter model."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference.tiny_models import TinyLlama, write_tiny_llama

from edgellama import Llama
from edgellama.sampling.presets import CHAT_SAMPLING, chat_sampling

QUESTIONS = (
    "Why is the sky blue?",
    "What is a computer?",
    "How do I boil an egg?",
    "Tell me a short story about a cat.",
    "What is the capital of France?",
    "Write a poem about the sea.",
    "How can I learn to play the guitar?",
    "Explain what gravity is.",
    "Give me three tips to sleep better.",
    "What is the difference between a cat and a dog?",
)


@pytest.mark.slow
def test_beginners_questions_end_by_themselves(smollm2_path: Path) -> None:
    """Greedily, where small models loop first, every reply ends on its own."""
    with Llama(smollm2_path) as llama:
        for question in QUESTIONS:
            with llama.chat(temperature=0) as chat:
                reply = chat.send(question, max_tokens=800)
            assert reply.finish_reason == "stop", (question, reply.text)
            assert len(reply.tokens) > 5


def test_the_starter_model_samples_as_its_authors_recommend(smollm2_path: Path) -> None:
    """Cooler than others, beside the penalties; texts that are no chats stay as they are."""
    with Llama(smollm2_path, context_length=64) as llama:
        options = llama.chat().options
        assert options == {**CHAT_SAMPLING, "temperature": 0.2, "top_p": 0.9}
        assert llama.chat(temperature=1.0).options["temperature"] == 1.0
        assert llama.chat(preset="chat").options == CHAT_SAMPLING
        assert llama.sampling_defaults == {}


@pytest.mark.parametrize("name", ["SmolLM2", "smollm", 3, None])
def test_a_file_s_own_recommendation_comes_first(name: object) -> None:
    """A family's defaults are for files that say nothing."""
    said = {"general.basename": name, "general.sampling.temp": 0.5}
    assert chat_sampling(said) == {"temperature": 0.5}
    cool = chat_sampling({"general.basename": name}).get("temperature")
    assert cool == (0.2 if name == "SmolLM2" else None)


def test_defaults_are_those_of_chats_alone(tmp_path: Path) -> None:
    """A chat has them unless it is told otherwise; plain generation has none of them."""
    path = write_tiny_llama(tmp_path / "tiny.gguf", TinyLlama())
    with Llama(path) as llama:
        assert llama.chat().options == CHAT_SAMPLING
        assert llama.chat(repeat_penalty=1.0).options == {**CHAT_SAMPLING, "repeat_penalty": 1.0}
        first = llama.generate("hello", temperature=0, max_tokens=30)
        plain = llama.generate(
            "hello", temperature=0, max_tokens=30, repeat_penalty=1.0, dry_multiplier=0.0
        )
        assert first.tokens == plain.tokens
