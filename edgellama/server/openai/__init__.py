"""OpenAI's protocol: chat completions, completions of plain prompts, and responses.

``routes`` and ``response_routes`` have the endpoints. ``chat``, ``completions`` and ``responses``
read requests and write answers.
"""
