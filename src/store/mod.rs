//! Objects now.
