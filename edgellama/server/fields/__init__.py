"""What requests may say, in each protocol, and the options of a text that it becomes."""
