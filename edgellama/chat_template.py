"""Chat formats under their public address: rendering messages, and encoding them to tokens.

The code is in ``edgellama.text.chat_template``; this module keeps the import that users write.
"""

from edgellama.text.chat_template import ChatTemplate, encode_chat, load_chat_template

__all__ = ["ChatTemplate", "encode_chat", "load_chat_template"]
