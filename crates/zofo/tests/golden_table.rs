//! The relative errors of all families with all kinds of blocks, in one table.

mod golden_cases;

use burn::tensor::Device;
use golden_cases::{
    Block, Case, Column, ErrorTable, Report, Tensors, blocks, cases_with, labelled, read_json, text, values,
};
use zofo::hf::WeightDtype;
use zofo::model::Backbone;
use zofo::peft::Adapter;
use zofo::train::loss::loss_gradients;

#[test]
fn golden_table_of_families_and_blocks() {
    let mut report = Report::default();
    let mut table = ErrorTable::default();
    for case in cases_with(&["model", "expected.json", "expected.safetensors"]) {
        let Some(files) = case.model("model", &mut report) else { continue };
        let backbone = Backbone::load(&files, WeightDtype::F32, &Device::flex()).unwrap();
        let (family, expected) = (family(&case), case.tensors("expected.safetensors"));
        compare_logits(&mut table, &family, Column::Model, &backbone, None, &case, &expected);
        table.ran(&family, Column::Model);
        report.ran();
    }
    for Block { base, case, backbone, adapter, .. } in blocks(&mut report) {
        let column = match &adapter {
            Adapter::Lora(_) => Column::Lora,
            Adapter::Prefix(_) => Column::Prefix,
            Adapter::Prompt(_) => Column::Prompt,
        };
        let (family, expected) = (family(&base), case.tensors("expected.safetensors"));
        compare_logits(&mut table, &family, column, &backbone, Some(&adapter), &base, &expected);
        let batch = labelled(&base.tensors("expected.safetensors").rows(""));
        let (_, gradients) = loss_gradients(&backbone, &adapter, &[(1.0, &batch)]);
        let expected = case.tensors("grads.safetensors");
        for ((name, _), gradient) in adapter.tensors().into_iter().zip(gradients) {
            table.gradient(&family, column, &values(gradient), expected.real(&name));
        }
        table.ran(&family, column);
        report.ran();
    }
    report.finish();
    table.finish();
}

/// Compares the logits of every sequence of `base`'s batch, alone.
fn compare_logits(
    table: &mut ErrorTable,
    family: &str,
    column: Column,
    backbone: &Backbone,
    adapter: Option<&Adapter>,
    base: &Case,
    expected: &Tensors,
) {
    for (i, row) in base.tensors("expected.safetensors").rows("").iter().enumerate() {
        let logits = values(backbone.logits(&row.every_token(), adapter));
        table.logits(family, column, &logits, expected.real(&format!("logits.{i}")));
    }
}

/// The family, as `config.json` calls it.
fn family(case: &Case) -> String {
    text(&read_json(&case.path("model/config.json")), "model_type").to_owned()
}
