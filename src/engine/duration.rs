//! How long training takes in optimizer steps, and how often it saves, evaluates and answers prompts: pure.

use crate::api::FinetuneRunSpec;
use crate::api::status::{DataStatus, Resolved};
use crate::api::training_duration::{TrainingDuration, Unit};

use super::resolve::world_size;

/// One pass over the training data, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// Optimizer steps.
    pub steps: Option<u64>,
    /// Tokens that are not padding.
    pub tokens: Option<u64>,
}

/// Duration and interval of a run whose data are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How long.
    pub duration: TrainingDuration,
    /// How often checkpoints, evaluations and prompts come.
    pub interval: TrainingDuration,
    /// Optimizer steps in all, as an estimate.
    pub steps: Option<i64>,
}

/// One epoch of `data` over `world_size` processes: a last, incomplete step is left out, unless it is the only one.
#[must_use]
pub fn epoch(data: &DataStatus, global_batch_size: i64, world_size: i64) -> Epoch {
    data.train.as_ref().map_or_else(Epoch::default, |train| one_epoch(train.samples, train.tokens, global_batch_size, world_size, data.packing_ratio))
}

/// Duration, interval and steps of a run. A duration that does not parse, which `resolve` refuses, counts as one epoch.
#[must_use]
pub fn plan(spec: &FinetuneRunSpec, resolved: &Resolved, data: &DataStatus) -> Plan {
    let duration = spec.training_duration.parse().unwrap_or(TrainingDuration { count: 1, unit: Unit::Epoch });
    let every = spec.checkpoint_every.as_deref().and_then(|text| text.parse().ok());
    let epoch = epoch(data, resolved.global_batch_size, world_size(resolved.nodes, resolved.gpus_per_node));
    Plan { duration, interval: interval(duration, every, epoch), steps: steps(duration, epoch) }
}

/// What the run asks for, else the smaller of one epoch and a quarter of the duration.
#[must_use]
pub fn interval(duration: TrainingDuration, asked: Option<TrainingDuration>, epoch: Epoch) -> TrainingDuration {
    let one_epoch = TrainingDuration { count: 1, unit: Unit::Epoch };
    let quarter = |count: u64| count.div_ceil(4).max(1);
    let capped = |quarter: u64, of_epoch: Option<u64>| match of_epoch {
        Some(epoch) if epoch <= quarter => one_epoch,
        _ => TrainingDuration { count: quarter, unit: duration.unit },
    };
    if let Some(asked) = asked {
        return asked;
    }
    match duration.unit {
        Unit::Epoch if duration.count >= 4 => one_epoch,
        Unit::Epoch => match epoch.steps {
            Some(steps) => TrainingDuration { count: quarter(steps.saturating_mul(duration.count)), unit: Unit::Batch },
            None => one_epoch,
        },
        Unit::Batch => capped(quarter(duration.count), epoch.steps),
        Unit::Token => capped(quarter(duration.count), epoch.tokens),
    }
}

/// Optimizer steps of a duration, as far as the data tell.
#[must_use]
pub fn estimated_steps(
    duration: TrainingDuration,
    samples: i64,
    tokens: i64,
    global_batch_size: i64,
    world_size: i64,
    packing_ratio: Option<f64>,
) -> Option<i64> {
    steps(duration, one_epoch(samples, tokens, global_batch_size, world_size, packing_ratio))
}

/// Rows that one optimizer step takes: each process draws the whole rows of its batch times the ratio.
#[must_use]
pub fn rows_per_step(global_batch_size: i64, world_size: i64, packing_ratio: Option<f64>) -> u64 {
    let world = u64::try_from(world_size).unwrap_or(1).clamp(1, 1 << 16);
    let batch = u64::try_from(global_batch_size).unwrap_or(1).clamp(world, 1 << 32) / world;
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)] // both are bounded far below 2^53
    let rows = (batch as f64 * packing(packing_ratio)) as u64;
    rows.max(1) * world
}

fn one_epoch(samples: i64, tokens: i64, global_batch_size: i64, world_size: i64, packing_ratio: Option<f64>) -> Epoch {
    let per_step = rows_per_step(global_batch_size, world_size, packing_ratio);
    Epoch { steps: positive(samples).map(|samples| (samples / per_step).max(1)), tokens: positive(tokens) }
}

fn steps(duration: TrainingDuration, epoch: Epoch) -> Option<i64> {
    let steps = match duration.unit {
        Unit::Batch => duration.count,
        Unit::Epoch => epoch.steps?.saturating_mul(duration.count),
        Unit::Token => {
            let (steps, tokens) = (u128::from(epoch.steps?), u128::from(epoch.tokens?));
            let all = (u128::from(duration.count) * steps).div_ceil(tokens);
            u64::try_from(all).unwrap_or(u64::MAX)
        }
    };
    Some(i64::try_from(steps).unwrap_or(i64::MAX))
}

/// A packing ratio that the engine accepts: at least 1, and 1 where none is known.
#[must_use]
pub fn packing(ratio: Option<f64>) -> f64 {
    ratio.filter(|ratio| ratio.is_finite()).unwrap_or(1.0).clamp(1.0, 1e6)
}

fn positive(count: i64) -> Option<u64> {
    u64::try_from(count).ok().filter(|count| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> TrainingDuration {
        text.parse().unwrap()
    }

    fn interval_of(duration: &str, steps: Option<u64>, tokens: Option<u64>) -> String {
        interval(parse(duration), None, Epoch { steps, tokens }).to_string()
    }

    #[test]
    fn the_interval_is_the_smaller_of_one_epoch_and_a_quarter_of_the_duration() {
        for (duration, steps, tokens, expected) in [
            ("1ep", Some(100), None, "25ba"),
            ("3ep", Some(25), None, "19ba"),
            ("4ep", Some(25), None, "1ep"),
            ("10ep", None, None, "1ep"),
            ("1ep", None, None, "1ep"),
            ("1ep", Some(1), None, "1ba"),
            ("100ba", Some(1000), None, "25ba"),
            ("100ba", Some(25), None, "1ep"),
            ("2ba", None, None, "1ba"),
            ("1000tok", None, Some(100), "1ep"),
            ("1000tok", None, Some(251), "250tok"),
            ("1_000tok", None, None, "250tok"),
        ] {
            assert_eq!(interval_of(duration, steps, tokens), expected, "{duration} {steps:?} {tokens:?}");
        }
    }

    #[test]
    fn what_the_run_asks_for_is_the_interval() {
        assert_eq!(interval(parse("1ep"), Some(parse("7ba")), Epoch { steps: Some(100), tokens: None }), parse("7ba"));
    }

    #[test]
    fn steps_follow_the_unit_of_the_duration() {
        let steps = |duration: &str, samples, tokens, ratio| estimated_steps(parse(duration), samples, tokens, 8, 1, ratio);
        assert_eq!(steps("3ep", 400, 9000, None), Some(150));
        assert_eq!(steps("3ep", 407, 9000, None), Some(150), "an incomplete step is left out");
        assert_eq!(steps("3ep", 7, 9000, None), Some(3), "unless it is the only one");
        assert_eq!(steps("1ep", 400, 9000, Some(3.57)), Some(14), "28 rows a step");
        assert_eq!(estimated_steps(parse("1ep"), 400, 9000, 8, 4, Some(1.6)), Some(33), "3 rows in each of 4 processes");
        assert_eq!(steps("7ba", 0, 0, None), Some(7));
        assert_eq!(steps("4500tok", 400, 9000, None), Some(25));
        assert_eq!(steps("1tok", 400, 9000, None), Some(1));
        assert_eq!(steps("3ep", 0, 0, None), None);
    }

    proptest! {
        #[test]
        fn an_interval_is_positive_and_never_longer_than_an_epoch_or_a_quarter(count in 1u64..1_000_000_000, unit in 0..3, steps in 1u64..1_000_000, tokens in 1u64..1_000_000_000_000) {
            let unit = [Unit::Epoch, Unit::Batch, Unit::Token][usize::try_from(unit).unwrap()];
            let got = interval(TrainingDuration { count, unit }, None, Epoch { steps: Some(steps), tokens: Some(tokens) });
            prop_assert!(got.count >= 1);
            match (unit, got.unit) {
                (_, Unit::Epoch) => prop_assert_eq!(got.count, 1),
                (Unit::Epoch, Unit::Batch) => prop_assert!(got.count <= steps && got.count <= (count * steps).div_ceil(4)),
                (Unit::Batch, Unit::Batch) => prop_assert!(got.count < steps && got.count == count.div_ceil(4)),
                (Unit::Token, Unit::Token) => prop_assert!(got.count < tokens && got.count == count.div_ceil(4)),
                other => prop_assert!(false, "{other:?}"),
            }
        }

        #[test]
        fn steps_never_overflow(count in 1u64.., unit in 0..3, samples: i64, tokens: i64, batch: i64, world: i64, ratio: f64) {
            let unit = [Unit::Epoch, Unit::Batch, Unit::Token][usize::try_from(unit).unwrap()];
            if let Some(steps) = estimated_steps(TrainingDuration { count, unit }, samples, tokens, batch, world, Some(ratio)) {
                prop_assert!(steps >= 1);
            }
        }
    }
}
