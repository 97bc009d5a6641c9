//! PEFT blocks on their backbones.

use super::{Case, Report, cases_with, open_model};
use burn::tensor::Device;
use zofo::hf::{HfError, ModelFiles, WeightDtype};
use zofo::model::Backbone;
use zofo::peft::Adapter;

/// A block on its backbone, with the reference values of both.
pub struct Block {
    /// The model and its batch.
    pub base: Case,
    /// The block.
    pub case: Case,
    pub files: ModelFiles,
    pub backbone: Backbone,
    pub adapter: Adapter,
}

impl Block {
    /// What to call it.
    pub fn place(&self) -> String {
        place(&self.base, &self.case)
    }
}

/// The blocks of all cases whose family and kind are supported; the others are noted as skipped.
pub fn blocks(report: &mut Report) -> Vec<Block> {
    let mut blocks = Vec::new();
    for base in cases_with(&["model", "expected.safetensors"]) {
        for case in base.inner("peft-") {
            let place = place(&base, &case);
            let Some(files) = open_model(&base.path("model"), &place, report) else { continue };
            let backbone = Backbone::load(&files, WeightDtype::F32, &Device::flex()).unwrap();
            match Adapter::read(&case.path("adapter"), backbone.config(), backbone.device()) {
                Ok(adapter) => blocks.push(Block { base: base.clone(), case, files, backbone, adapter }),
                Err(HfError::Unsupported { what, found, .. }) if what.contains("peft_type") => {
                    report.skip("block not supported", format!("{place} is {found}"));
                }
                Err(error) => panic!("{place}: {error}"),
            }
        }
    }
    blocks
}

fn place(base: &Case, case: &Case) -> String {
    format!("{}/{}", base.name(), case.name())
}
