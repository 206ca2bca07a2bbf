//! The manifest folder.
