"""Public checkpoints read into our own model classes: from then on they are exported, checked and served like ours."""
