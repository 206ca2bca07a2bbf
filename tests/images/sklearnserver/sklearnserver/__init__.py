"""Serves a scikit-learn model over KServe's V1 and V2 protocols, REST and gRPC, on the kserve Python SDK."""
