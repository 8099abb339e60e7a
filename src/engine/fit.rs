//! Whether a model can be trained on GPUs of a given memory, and what would do: a lower bound, so that only the hopeless is refused. Pure.
//!
//! State is 12 bytes a parameter (fp32 weights, gradients and Lion's momentum) over all GPUs. Activations are those of one
//! sample, since the engine's smallest microbatch is one: with more than one GPU the inputs of all layers and the inside of
//! one (activation checkpointing), on a single GPU the inside of all layers, and the logits with their gradient. Depth and
//! width are estimated from the number of parameters (P = 12 L h², h = 128 L).

const GIB: f64 = 1_073_741_824.0;
/// What the driver and the allocator take from each GPU.
const RESERVED_GIB: f64 = 2.0;
const STATE_BYTES: f64 = 12.0;
/// Bytes a token and unit of width inside one layer, with 16-bit activations and fused attention.
const LAYER_BYTES: f64 = 34.0;
const VOCABULARY: f64 = 32_000.0;

/// A model and how it is to be trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Parameters.
    pub parameters: i64,
    /// Tokens in a sample.
    pub context_length: i64,
    /// Samples that a GPU computes at once; 1 where the engine chooses.
    pub microbatch_size: i64,
    /// Whether activations take 4 bytes, not 2.
    pub fp32: bool,
    /// GPUs in all.
    pub gpus: i64,
    /// Memory of one GPU in GiB.
    pub gpu_memory_gib: i32,
}

/// What is needed, and what would do instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortfall {
    /// GiB that each GPU needs.
    pub needed_gib: i64,
    /// The smallest power of two of such GPUs that would do at this context length.
    pub gpus: Option<i64>,
    /// The longest context length that would do on these GPUs.
    pub context_length: Option<i64>,
}

/// `None` when it may fit.
#[must_use]
pub fn shortfall(load: &Load) -> Option<Shortfall> {
    if fits(load) {
        return None;
    }
    let gpus = (0..16).map(|power| 1 << power).find(|&gpus| gpus > load.gpus && fits(&Load { gpus, ..*load }));
    let (mut low, mut high) = (0, load.context_length);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(&Load { context_length: middle, ..*load }) { low = middle } else { high = middle }
    }
    #[allow(clippy::cast_possible_truncation)] // a float far above i64 saturates, which is still too much
    let needed_gib = (needed_bytes(load) / GIB + RESERVED_GIB).ceil() as i64;
    Some(Shortfall { needed_gib, gpus, context_length: (low > 0).then_some(low) })
}

fn fits(load: &Load) -> bool {
    needed_bytes(load) <= (f64::from(load.gpu_memory_gib) - RESERVED_GIB) * GIB
}

#[allow(clippy::cast_precision_loss)] // an estimate
fn needed_bytes(load: &Load) -> f64 {
    let parameters = load.parameters as f64;
    let gpus = load.gpus.max(1) as f64;
    let layers = (parameters / (12.0 * 128.0 * 128.0)).cbrt().max(1.0);
    let width = 128.0 * layers;
    let tokens = load.context_length as f64 * load.microbatch_size as f64;
    let bytes = if load.fp32 { 4.0 } else { 2.0 };
    let inside = LAYER_BYTES * bytes / 2.0 * width;
    let kept = if load.gpus > 1 { bytes * width * layers + inside } else { inside * layers };
    let logits = (bytes + 4.0) * VOCABULARY;
    STATE_BYTES * parameters / gpus + tokens * (kept + logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BILLION: i64 = 1_000_000_000;

    fn load(billions: i64, gpus: i64, context_length: i64) -> Load {
        Load { parameters: billions * BILLION, context_length, microbatch_size: 1, fp32: false, gpus, gpu_memory_gib: 80 }
    }

    #[test]
    fn what_is_known_to_train_on_h100s_fits() {
        for (billions, gpus, context_length) in [(1, 1, 4096), (8, 8, 8192), (13, 8, 4096), (70, 16, 8192), (34, 16, 16384)] {
            assert_eq!(shortfall(&load(billions, gpus, context_length)), None, "{billions} billion on {gpus}");
        }
    }

    #[test]
    fn what_cannot_fit_says_how_much_it_needs_and_what_would_do() {
        let got = shortfall(&load(70, 8, 8192)).unwrap();
        assert_eq!(got.gpus, Some(16));
        assert_eq!(got.context_length, None, "the weights alone are too much for 8 GPUs");
        assert!((98..130).contains(&got.needed_gib), "{got:?}");
    }

    #[test]
    fn a_context_that_is_too_long_for_any_number_of_gpus_says_which_would_do() {
        let got = shortfall(&load(70, 16, 131_072)).unwrap();
        assert_eq!(got.gpus, None);
        let context_length = got.context_length.unwrap();
        assert_eq!(shortfall(&load(70, 16, context_length)), None);
        assert!(shortfall(&load(70, 16, context_length + 1)).is_some());
    }

    proptest! {
        #[test]
        fn every_suggestion_fits(parameters in 1i64..2_000_000_000_000, gpus in 1i64..512, context_length in 1i64..200_000, memory in 8..200) {
            let asked = Load { parameters, context_length, microbatch_size: 1, fp32: false, gpus, gpu_memory_gib: memory };
            if let Some(short) = shortfall(&asked) {
                prop_assert!(short.needed_gib > i64::from(memory));
                if let Some(gpus) = short.gpus { let fine = fits(&Load { gpus, ..asked }); prop_assert!(fine); }
                if let Some(context_length) = short.context_length { let fine = fits(&Load { context_length, ..asked }); prop_assert!(fine); }
            }
        }
    }
}
