//! Runtime container plus overrides: strategic-merge rules (§2.5).
