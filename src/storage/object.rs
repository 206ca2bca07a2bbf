//! S3, GCS and HTTP through object_store.
