//! `{{.Name}}` and friends in the containers of runtimes (§2.6).
