"""The chat: commands, input, and replies as they are shown."""
