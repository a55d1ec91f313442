"""Text between characters and ids: cleaning, tokenizers, sentence segmentation."""
