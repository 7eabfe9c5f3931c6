"""Tools: what a model may call, how it is shown, how calls are read; nothing is generated here."""
