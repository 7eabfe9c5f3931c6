"""Names of models, fetching them, and the folder where they are kept."""
