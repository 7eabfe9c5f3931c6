"""Thinking that a model writes before its answer: its marks, and separating it from the answer.

``marks`` are those of a model, ``splitter`` divides a growing text, ``expected`` says how a text
begins. ``edgellama.generation.chat.chat_reasoning`` knows who asks for thinking.
"""
