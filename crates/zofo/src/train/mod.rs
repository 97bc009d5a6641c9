//! Training methods, each in a file that reads like its algorithm.

pub mod bilevel;
pub mod loss;
