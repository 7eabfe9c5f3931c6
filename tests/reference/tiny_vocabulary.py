"""A small byte-level BPE vocabulary that works, for the tiny models of the tests.

It knows the 256 bytes, a few merges, four control tokens and a ChatML-like template;
the shapes and weights of a model are in tiny_models.
"""

from dataclasses import dataclass

from gguf import GGUFWriter, TokenType

CONTROL_TOKENS = ("<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>")
MERGED_PAIRS = ("h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "i n")
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_characters() -> list[str]:
    """The 256 characters that stand for bytes in GPT-2 vocabularies, in byte order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [table[byte] for byte in range(256)]


@dataclass(frozen=True)
class TinyVocabulary:
    """Bytes, merged pairs and control tokens, filled with unused tokens up to ``size``."""

    size: int

    @property
    def tokens(self) -> list[str]:
        """All tokens in the order of their ids; the bytes come first."""
        merged = [pair.replace(" ", "") for pair in MERGED_PAIRS]
        used = [*byte_characters(), *merged, *CONTROL_TOKENS]
        if self.size < len(used):
            raise ValueError(f"a vocabulary of {self.size} is less than {len(used)} tokens")
        return used + [f"[unused {index}]" for index in range(self.size - len(used))]

    @property
    def token_types(self) -> list[TokenType]:
        """The GGUF type of each token."""
        num_text = 256 + len(MERGED_PAIRS)
        num_unused = self.size - num_text - len(CONTROL_TOKENS)
        return (
            [TokenType.NORMAL] * num_text
            + [TokenType.CONTROL] * len(CONTROL_TOKENS)
            + [TokenType.UNUSED] * num_unused
        )

    def control_id(self, text: str) -> int:
        """The id of a control token."""
        return 256 + len(MERGED_PAIRS) + CONTROL_TOKENS.index(text)

    def write(self, writer: GGUFWriter, *, chat_template: str | None, add_bos: bool) -> None:
        """Write the ``tokenizer.*`` keys."""
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.token_types)
        writer.add_token_merges(list(MERGED_PAIRS))
        writer.add_bos_token_id(self.control_id("<|begin|>"))
        writer.add_eos_token_id(self.control_id("<|end|>"))
        writer.add_eot_token_id(self.control_id("<|im_end|>"))
        writer.add_add_bos_token(add_bos)
        if chat_template is not None:
            writer.add_chat_template(chat_template)
