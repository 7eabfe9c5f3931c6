"""The vocabulary that a model file holds, and the rules for using it.

``vocabulary`` has tokens, types and scores, ``special_tokens`` the roles. ``edgellama.text``
encodes and decodes.
"""
