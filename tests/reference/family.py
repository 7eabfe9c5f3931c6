"""Tiny checkpoints of every member of the Llama family, each with the quirks of the real one."""

from reference.family_llamas import LLAMAS
from reference.family_relatives import RELATIVES

MEMBERS = (*LLAMAS, *RELATIVES)
