"""WebDataset shards: their contents, how they are written, checked, read by key and streamed."""
