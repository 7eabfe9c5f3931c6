"""The models that requests may name, which of them are loaded, and downloads of others."""
