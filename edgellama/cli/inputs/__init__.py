"""What a command is given to work on: models on one machine or several, prompts, texts."""
