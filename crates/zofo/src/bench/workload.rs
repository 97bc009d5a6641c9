//! The work that is timed, and the method in the settings in which it is.

use super::BenchError;
use crate::model::config::{Layer, Linear, Qkv, UpProjection};
use crate::model::{Backbone, Batch, Part};
use crate::peft::{Adapter, AdapterConfig, AdapterError, LoraConfig, OptimizerKind};
use crate::task::{EncodedCandidate, EncodedExample, Encoder, Example, ModelLimits, SplitMix64, Task, TemplateName};
use crate::train::bilevel::Bilevel;
use crate::train::loss::losses;
use crate::train::objective::Objective;
use crate::train::{Batches, Block, LearningRates};
use crate::zo::BackboneDirection;
use crate::zo::estimator::{Estimate, Spsa};
use crate::zo::optimizer::BackboneOptimizer;
use crate::zo::update::BackboneUpdater;
use tokenizers::Tokenizer;

/// ε of perturbations.
pub const EPS: f32 = 1e-3;

/// Learning rates of steps that are timed.
pub const RATES: LearningRates = LearningRates { shadow: 1e-3, adapter: 1e-4, backbone: 1e-7 };

/// Validation rows that are evaluated, at most.
const HELD_OUT: usize = 200;

/// Random tokens in all, at most: they are in memory before anything is measured.
const MOST_TOKENS: usize = 1 << 24;

/// Token sequences to time everything on.
pub struct Workload {
    /// The first one warms up and the last one serves only for the penalty of the one before.
    pub(super) batches: Vec<Batch>,
    pub(super) held_out: Vec<EncodedExample>,
    /// What text is generated after.
    pub(super) prompt: Vec<u32>,
}

impl Workload {
    /// Batches of `batch_size` rows of `train`, in order, each with its right answer: `batches` that are counted, one to
    /// warm up before them, and one behind for the penalty of the last. Of `held_out` the first 200 are evaluated, and
    /// text is generated after the first one's prompt.
    ///
    /// # Errors
    ///
    /// [`BenchError::TooFewRows`]; rows that the task's template or the tokenizer refuses.
    pub fn new(
        task: &Task,
        tokenizer: &Tokenizer,
        limits: ModelLimits,
        [train, held_out]: [&[Example]; 2],
        batch_size: usize,
        batches: usize,
    ) -> Result<Self, BenchError> {
        let needed = batch_size.saturating_mul(batches.saturating_add(2));
        let Some(train) = train.get(..needed) else {
            let (task, found) = (task.name().to_owned(), train.len());
            return Err(BenchError::TooFewRows { task, found, needed, batches, batch_size });
        };
        let encoder = Encoder::new(task, &TemplateName::PROMPT, tokenizer, limits)?;
        let train = encoder.encode(train)?.examples;
        let held_out = encoder.encode(&held_out[..held_out.len().min(HELD_OUT)])?.examples;
        Ok(Self::of_encoded(&train, held_out, batch_size))
    }

    /// The same of random tokens, `row_tokens` of them fed per row, with two candidates of one token each; as many rows as
    /// a batch has are evaluated.
    ///
    /// # Errors
    ///
    /// [`BenchError::RowTooLong`], [`BenchError::TooManyTokens`].
    pub fn random(
        limits: ModelLimits,
        row_tokens: usize,
        batch_size: usize,
        batches: usize,
    ) -> Result<Self, BenchError> {
        let ModelLimits { vocabulary, context } = limits;
        if row_tokens > context {
            return Err(BenchError::RowTooLong { row_tokens, context });
        }
        let rows = batch_size.saturating_mul(batches.saturating_add(2));
        let tokens = rows.saturating_mul(row_tokens);
        if tokens > MOST_TOKENS {
            return Err(BenchError::TooManyTokens { tokens, most: MOST_TOKENS });
        }
        let mut random = SplitMix64::keyed(0, "bench", 0);
        let mut example = |line: usize| {
            let mut token = || (random.next_u64() % vocabulary as u64) as u32;
            let prompt: Vec<u32> = (0..row_tokens).map(|_| token()).collect();
            let candidates =
                [token(), token()].map(|answer| EncodedCandidate::new([&prompt[..], &[answer]].concat(), 1));
            EncodedExample { candidates: candidates.to_vec(), golds: vec![0], line }
        };
        let train: Vec<_> = (1..=rows).map(&mut example).collect();
        let held_out = (1..=batch_size).map(&mut example).collect();
        Ok(Self::of_encoded(&train, held_out, batch_size))
    }

    fn of_encoded(train: &[EncodedExample], held_out: Vec<EncodedExample>, batch_size: usize) -> Self {
        let batch = |rows: &[EncodedExample]| Batch::answers(rows.iter().map(EncodedExample::gold_row));
        // An encoded row has a prompt of at least one token.
        let prompt = train.iter().map(|row| row.gold_row().ids[..row.gold_row().context_len()].to_vec()).next();
        let batches = train.chunks(batch_size).map(batch).collect();
        Self { batches, held_out, prompt: prompt.unwrap_or_default() }
    }

    /// Tokens that are fed in each batch that is counted.
    pub fn tokens(&self) -> Vec<usize> {
        self.measured().iter().map(Batch::tokens).collect()
    }

    /// The batches that are counted.
    pub(super) fn measured(&self) -> &[Batch] {
        &self.batches[1..self.batches.len() - 1]
    }
}

/// The method with LoRA of rank 8 on queries and values, AdamW for both blocks, `rms` for θ, and λ = 10 000, without inner
/// steps.
///
/// # Errors
///
/// The model has no projection that LoRA could be added to.
pub fn bilevel(backbone: Backbone) -> Result<Bilevel, AdapterError> {
    let adapter = Adapter::new(&AdapterConfig::Lora(LoraConfig::default()), &backbone, 0)?;
    Ok(Bilevel {
        backbone,
        adapter: Block::new(adapter.clone(), OptimizerKind::AdamW),
        shadow: Block::new(adapter, OptimizerKind::AdamW),
        backbone_optimizer: BackboneUpdater::new(BackboneOptimizer::Rms),
        objective: Objective::Loss,
        spsa: Spsa::two_sided(EPS),
        conservative: false,
        penalty: 1e4,
        penalty_normalized: false,
        inner_steps: 0,
        inner_accumulate: 1,
        outer_accumulate: 1,
    })
}

/// One step of MeZO by SGD: the slopes of F(θ; B) along the directions of some seeds, in one pass over the weights, and the
/// update of θ.
pub fn mezo_step(backbone: &mut Backbone, batch: &Batch, seeds: &[u64]) -> Vec<Estimate> {
    let directions: Vec<_> = seeds.iter().map(|&seed| BackboneDirection::Seeded(seed)).collect();
    let estimates = Spsa::two_sided(EPS)
        .batched(directions.len())
        .slopes(&directions, |view| losses(backbone, &[Part { batch, adapter: None }], view).concat());
    for (direction, estimate) in directions.iter().zip(&estimates) {
        backbone.descend(direction, (RATES.backbone * estimate.slope / seeds.len() as f64) as f32);
    }
    estimates
}

/// One batch for each purpose, again and again.
#[derive(Clone, Copy, Debug)]
pub struct FixedBatches<'a> {
    /// B of inner steps.
    pub inner: &'a Batch,
    /// B_f.
    pub outer: &'a Batch,
    /// B_p of the penalty.
    pub penalty: &'a Batch,
}

impl Batches for FixedBatches<'_> {
    fn inner(&mut self) -> Batch {
        self.inner.clone()
    }

    fn outer(&mut self) -> Batch {
        self.outer.clone()
    }

    fn penalty(&mut self) -> Batch {
        self.penalty.clone()
    }
}

/// Operations of the matrix products with weights in a forward pass over a batch; attention's own are left out.
pub(super) fn forward_flops(backbone: &Backbone, batch: &Batch) -> f64 {
    let config = backbone.config();
    let ends = [&config.embedding.projection, &config.output.projection].into_iter().flatten();
    let per_token = config.layers.iter().map(layer_weights).sum::<usize>() + ends.map(weights).sum::<usize>();
    let head = config.vocabulary * config.embedding.width;
    2.0 * (per_token * batch.tokens() + head * batch.labels.len()) as f64
}

fn weights(linear: &Linear) -> usize {
    linear.inputs * linear.outputs
}

/// Weights of a block's matrices.
fn layer_weights(layer: &Layer) -> usize {
    let qkv = match &layer.attention.qkv {
        Qkv::Separate { q, k, v } => weights(q) + weights(k) + weights(v),
        Qkv::Fused(qkv) => weights(qkv),
    };
    let up = match &layer.mlp.up {
        UpProjection::Plain(up) | UpProjection::FusedGated(up) => weights(up),
        UpProjection::Gated { gate, up } => weights(gate) + weights(up),
    };
    qkv + weights(&layer.attention.output) + up + weights(&layer.mlp.down)
}
