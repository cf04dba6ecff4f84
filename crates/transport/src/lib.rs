//! Byte streams between nodes.
