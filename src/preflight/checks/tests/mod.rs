mod hostile;
mod hub;
mod mlflow;
mod outputs;
mod s3;
mod trackers;
