"""From a recipe and a corpus to trained weights."""
