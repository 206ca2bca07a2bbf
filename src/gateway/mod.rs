//! The data path: one port for every protocol, one table that says where each request goes.
//!
//! A request's way: `listener` accepts the connection, which has a life of its own in `connection`; `guard` checks
//! HTTP/1 framing more strictly than hyper does, `walk` takes the request through `route` (pure) and, where the body
//! names the model, `peek` (pure); `forward` waits in `hold` for a service that sleeps, gets a `place` from `balance`,
//! makes an `attempt` on a connection from `upstream`, and has the answer passed on by `relay`, piece by piece as a
//! `body`. What is said on a backend's connection is `talk` (HTTP/1.1: `outgoing` and `ask_head` one way, `answer_head`
//! and `answer_frames` the other) or `multiplex` (HTTP/2), for as long as there is `patience`; all of it happens in the
//! request's own task. `tunnel` takes over after an upgrade. Replicas that call their own service come in by the `gate`
//! and are looked up `inside` it. Whatever we answer ourselves is a `refusal` or comes from `index`.
//!
//! **Invariants:** the gateway decides nothing that the [route table](crate::plan::routes) does not say. A lease is held
//! from before a backend is contacted until the last byte of its answer has been passed on, on every path. Bodies are
//! never collected, but for graphs (`graph_run`), which send them more than once, within a limit (`whole`). Every wait ends by a limit of [`GatewayConfig`].

mod access_log;
mod address;
mod answer_frames;
mod answer_head;
mod ask_head;
mod attempt;
mod backend_body;
mod balance;
mod batch;
mod batcher;
mod body;
mod breaker;
mod check;
mod config;
mod connection;
mod crew;
mod deadline;
mod desk;
mod early;
mod executor;
mod flight;
mod flood;
mod forward;
mod framing;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod gate;
mod graph_run;
mod guard;
mod headers;
mod hold;
mod index;
mod inner;
mod inside;
mod listener;
mod metrics;
mod multiplex;
mod name_ahead;
mod outgoing;
mod outside;
mod patience;
mod payload;
mod payload_file;
mod payload_log;
mod payload_object;
mod payload_post;
mod peek;
mod peek_form;
mod peek_grpc;
mod place;
mod quiet;
mod refusal;
mod relay;
mod roll;
mod route;
mod service_extras;
mod talk;
mod tap;
mod tunnel;
mod upload;
mod upstream;
mod walk;
mod whole;
mod worker;

#[cfg(test)]
mod panic_tests;

pub use access_log::AccessLogFormat;
pub use config::GatewayConfig;
pub use gate::Gate;
pub use inside::Call;
pub use listener::Gateway;
pub use metrics::{LATENCY_BOUNDS, Metrics, MetricsSnapshot, ServiceSnapshot};
pub use payload_log::LogPlaces;
