"""Text dialects through one hub, sans-I/O: a dialect is one file with readers and writers; nothing here does I/O."""
