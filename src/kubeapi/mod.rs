//! What the command line, `kubectl` and SDKs talk to: a small Kubernetes API over the store, on the API listener.
//!
//! Everything it shows is a view of what others own (the store, the pods the driver published, the event ring); everything
//! it writes goes through [`Loader`](crate::source::Loader), so that an edit over the API and an edit of a file are the
//! same thing. It decides nothing about serving.
//!
//! **Invariant:** a request without the token sees health, metrics and the version, nothing else; a request that a
//! browser made for another site sees nothing at all. Every error is a `metav1.Status`.

pub mod access;
pub mod age;
pub mod apply;
pub mod delete;
pub mod discovery;
pub mod document;
pub mod events;
pub mod extras;
pub mod failure;
pub mod feed;
pub mod fields;
pub mod forward_target;
pub mod ingress;
pub mod lists;
pub mod logs;
pub mod managers;
pub mod objects;
pub mod openapi;
pub mod patch;
pub mod pods;
pub mod port_forward;
pub mod protobuf;
pub mod query;
pub mod resource;
pub mod reviews;
pub mod selector;
pub mod server;
pub mod spdy;
pub mod status;
pub mod strategic;
pub mod table;
pub mod tls;
pub mod validation;
pub mod views;
pub mod watch;
pub mod words;
pub mod write;

pub use server::{ApiState, serve};
