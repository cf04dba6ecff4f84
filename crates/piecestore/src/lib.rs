//! piecestore
