//! What the chart tells the operator once, as plain data for the builders and for `decide`.

/// Settings of the operator that shape the objects it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Image with `finetune-preflight`; the operator's own.
    pub preflight_image: String,
    /// Pull policy of that image; not set: the cluster's default.
    pub preflight_pull_policy: Option<String>,
    /// Base address of the report endpoint, for example `https://finetune-operator.finetune-system.svc:8443`.
    pub report_url: String,
    /// Audience of the projected tokens.
    pub report_audience: String,
    /// Prefix of experiment paths that nobody set, for example `/finetune`.
    pub experiment_prefix: String,
    /// Seconds for converting data.
    pub data_deadline_seconds: i64,
    /// Hosts that runs may name as endpoints. Empty: any that is not denied.
    pub allowed_endpoints: Vec<String>,
}

#[cfg(test)]
impl Settings {
    /// Settings for tests.
    pub(crate) fn sample() -> Self {
        Self {
            preflight_image: "finetune-operator:test".to_owned(),
            preflight_pull_policy: None,
            report_url: "https://finetune-operator.finetune-system.svc:8443".to_owned(),
            report_audience: "finetune.dev".to_owned(),
            experiment_prefix: "/finetune".to_owned(),
            data_deadline_seconds: 86_400,
            allowed_endpoints: Vec::new(),
        }
    }
}
