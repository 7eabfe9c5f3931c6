"""The input of commands: models on one machine or several, prompts, texts, conversations.

``model_argument`` opens the model that a user named, ``prompt_text`` reads a prompt from an option,
a file or a pipe; ``kept`` has conversations by name.
"""
