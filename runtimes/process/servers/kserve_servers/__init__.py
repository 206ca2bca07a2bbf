"""Model servers for scikit-learn, XGBoost and LightGBM on the kserve Python SDK: V1 and V2, REST and gRPC.

They take the flags of KServe's own servers, serve without a container (the process engine's recipes), and stand in for
KServe's images in the container tests.
"""
