//! What the command line, kubectl and SDKs talk to.
