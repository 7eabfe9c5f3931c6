"""The driver: texts as tokens, and the order in which their steps go through the stages."""
