"""Thinking that a model writes before its answer: by which marks it is known, and told apart.

``marks`` are those that a model has, ``splitter`` parts a text that grows, ``expected`` says how
one text begins. ``edgellama.generation.chat.chat_reasoning`` knows who asks for thinking.
"""
