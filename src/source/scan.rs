//! The whole folder to files; an error is not emptiness.
