"""The vocabulary that a model file holds, and the rules by which it is used.

``vocabulary`` has tokens, types and scores, ``special_tokens`` the roles. Encoding and decoding are
left to ``edgellama.text``.
"""
