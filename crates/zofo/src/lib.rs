//! Fine-tuning of whole language models in the memory that inference needs, by Bilevel-ZOFO (arXiv 2502.03604) and its
//! relatives.
//!
//! Where to look: [`train::bilevel`] is the algorithm; [`zo`] estimates slopes and moves the backbone; [`peft`] is the
//! small block that is trained with exact gradients; [`model`] is the decoder; [`hf`] reads and writes Hugging Face files;
//! [`data`] reads rows from files; [`task`] turns rows of data into token sequences; [`eval`] scores and generates;
//! [`run`] is everything around a training run, [`sweep`] around many, and [`report`] shows what they measured;
//! [`mod@bench`] times it all.

#![forbid(unsafe_code)]

pub mod bench;
pub mod data;
pub mod eval;
pub mod hf;
pub mod model;
pub mod peft;
pub mod report;
pub mod run;
pub mod sweep;
pub mod task;
pub mod train;
pub mod zo;
