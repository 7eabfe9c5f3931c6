"""What a command is given to work on: models on one machine or several, prompts, texts, chats.

``model_argument`` makes a model of what a user wrote, ``prompt_text`` a prompt of an option, a file
or a pipe; ``kept`` has conversations by name.
"""
