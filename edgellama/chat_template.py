"""The public address of chat formats: rendering messages, and encoding them to tokens.

The code is in ``edgellama.text``; this module keeps the import that users write.
"""

from edgellama.text.chat_template import ChatTemplate, load_chat_template
from edgellama.text.chat_tokens import encode_chat

__all__ = ["ChatTemplate", "encode_chat", "load_chat_template"]
