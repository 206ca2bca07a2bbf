//! Local folders and files, mounted in place.
