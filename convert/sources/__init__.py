"""Sources of a conversion: what lies in a folder or file, as parameters and tensors by rows."""
