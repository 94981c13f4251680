"""The library inside other projects' tools; each folder is loaded by its tool alone."""
