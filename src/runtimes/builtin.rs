//! The YAML in `/runtimes`, compiled in and parsed once.
