//! How many GPU-hours a run will take, before it has any: a rough estimate. Pure.
//!
//! GPU-hours = 6 x parameters x trained tokens / (peak of the GPU type x 35 %), with 8 in place of 6 where activations are
//! computed twice (more than one GPU). The peak is the maker's for dense 16-bit matrix products. Padding, evaluation, loading,
//! saving and the part of attention that grows with the square of the context are not in it.

use crate::api::status::{DataStatus, Resolved};
use crate::api::training_duration::{TrainingDuration, Unit};

use super::duration;
use super::resolve::world_size;

/// Peaks in FLOPS of the GPU types that are known; a type is known by a word of its label.
const PEAKS: [(&str, f64); 10] = [
    ("b200", 2250e12),
    ("h200", 989e12),
    ("gh200", 989e12),
    ("h100", 989e12),
    ("a100", 312e12),
    ("l40s", 362e12),
    ("l40", 181e12),
    ("a10", 125e12),
    ("a10g", 70e12),
    ("l4", 121e12),
];
/// The share of the peak that training reaches.
const UTILISATION: f64 = 0.35;

/// The estimate, to three digits; none for an unknown GPU type, for 32-bit training and where the number of tokens is not known.
#[must_use]
pub fn gpu_hours(parameters: i64, resolved: &Resolved, duration: TrainingDuration, data: &DataStatus) -> Option<f64> {
    let peak = peak(resolved.gpu_type.as_deref()?).filter(|_| resolved.precision != "fp32")?;
    let world = world_size(resolved.nodes, resolved.gpus_per_node);
    let epoch = duration::epoch(data, resolved.global_batch_size, world);
    #[allow(clippy::cast_precision_loss)] // an estimate
    let (count, parameters) = (duration.count as f64, parameters as f64);
    #[allow(clippy::cast_precision_loss)] // an estimate
    let (steps, tokens) = (epoch.steps.map(|steps| steps as f64), epoch.tokens.map(|tokens| tokens as f64));
    let trained = match duration.unit {
        Unit::Epoch => tokens? * count,
        Unit::Batch => tokens? / steps? * count,
        Unit::Token => count,
    };
    let passes = if world > 1 { 8.0 } else { 6.0 };
    let hours = passes * parameters * trained / (peak * UTILISATION) / 3600.0;
    let scale = 10f64.powf(2.0 - hours.log10().floor());
    Some((hours * scale).round() / scale).filter(|hours| hours.is_finite() && *hours > 0.0)
}

fn peak(gpu_type: &str) -> Option<f64> {
    let label = gpu_type.to_lowercase();
    let mut words = label.split(|c: char| !c.is_ascii_alphanumeric());
    words.find_map(|word| PEAKS.iter().find(|(name, _)| *name == word)).map(|(_, peak)| *peak)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::DataSet;
    use proptest::prelude::*;

    fn estimate(gpu_type: Option<&str>, gpus: i32, precision: &str, duration: &str) -> Option<f64> {
        let resolved = Resolved {
            gpu_type: gpu_type.map(str::to_owned),
            nodes: 1,
            gpus_per_node: gpus,
            global_batch_size: 64,
            precision: precision.into(),
            ..Resolved::default()
        };
        let train = DataSet { samples: 6400, tokens: 10_000_000, ..DataSet::default() };
        let data = DataStatus { train: Some(train), packing_ratio: Some(1.0), ..DataStatus::default() };
        gpu_hours(8_000_000_000, &resolved, duration.parse().unwrap(), &data)
    }

    #[test]
    fn hours_follow_parameters_tokens_and_the_peak_of_the_gpu() {
        // 8 * 8e9 * 3e7 / (989e12 * 0.35) / 3600 = 1.5407
        assert_eq!(estimate(Some("H100"), 8, "amp_bf16", "3ep"), Some(1.54));
        assert_eq!(estimate(Some("H100"), 1, "amp_bf16", "3ep"), Some(1.16), "one GPU computes activations once");
        assert_eq!(estimate(Some("H100"), 8, "amp_bf16", "30_000_000tok"), Some(1.54));
        assert_eq!(estimate(Some("H100"), 8, "amp_bf16", "300ba"), Some(1.54));
        assert_eq!(estimate(Some("NVIDIA-A100-SXM4-80GB"), 8, "amp_bf16", "3ep"), Some(4.88));
        assert_eq!(estimate(Some("nvidia_a10g"), 8, "amp_bf16", "3ep"), Some(21.8));
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        for (gpu_type, precision) in [(None, "amp_bf16"), (Some("TPU"), "amp_bf16"), (Some("H1000"), "amp_bf16"), (Some("H100"), "fp32")] {
            assert_eq!(estimate(gpu_type, 8, precision, "3ep"), None, "{gpu_type:?}");
        }
        let resolved = Resolved { gpu_type: Some("H100".into()), nodes: 1, gpus_per_node: 1, precision: "amp_bf16".into(), ..Resolved::default() };
        assert_eq!(gpu_hours(1, &resolved, "3ep".parse().unwrap(), &DataStatus::default()), None);
    }

    proptest! {
        #[test]
        fn an_estimate_is_a_positive_number(parameters in 1i64.., tokens: i64, samples: i64, count in 1u64.., unit in 0..3usize) {
            let unit = [Unit::Epoch, Unit::Batch, Unit::Token][unit];
            let resolved = Resolved { gpu_type: Some("H100".into()), nodes: 1, gpus_per_node: 8, global_batch_size: 8, precision: "amp_bf16".into(), ..Resolved::default() };
            let data = DataStatus { train: Some(DataSet { tokens, samples, ..DataSet::default() }), ..DataStatus::default() };
            if let Some(hours) = gpu_hours(parameters, &resolved, TrainingDuration { count, unit }, &data) {
                prop_assert!(hours.is_finite() && hours > 0.0);
            }
        }
    }
}
