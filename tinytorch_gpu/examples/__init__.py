"""Training programs to read, run and change: `gpt` (text, byte by byte) and `digits` (images)."""
