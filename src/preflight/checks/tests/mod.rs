mod databricks;
mod hostile;
mod hub;
mod mlflow;
mod oci;
mod outputs;
mod s3;
mod trackers;
