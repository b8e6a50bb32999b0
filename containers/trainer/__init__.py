"""The training container: spec.json in; checkpoints, progress.jsonl and result.json out."""
