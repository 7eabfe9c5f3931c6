"""Text to tokens and back, chat formats, stop strings; knows no engine."""
