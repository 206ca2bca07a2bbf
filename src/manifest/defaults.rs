//! What an omitted field means, and what the legacy forms mean (§1.6).
