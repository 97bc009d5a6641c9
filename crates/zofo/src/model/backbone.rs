//! The weights θ.

use super::config::DecoderConfig;
use super::leaves::leaf;
use crate::hf::atomic::failed_to;
use crate::hf::{HfError, ModelFiles, WeightDtype, hash_bytes};
use crate::zo::{BackboneDirection, Perturbation};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_std::Bytes;
use half::bf16;
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use zofo_kernels::direction::{Descent, ParameterId};
use zofo_kernels::tensor::{StoredBytes, stored_bytes};
use zofo_kernels::{Compute, Noise, WeightView, copy_to_disk};

/// One weight of the backbone.
pub struct Parameter {
    name: String,
    id: ParameterId,
    shape: Vec<usize>,
    /// A vector is a matrix of one row. Taken out only while it is updated.
    value: Tensor<2>,
}

impl Parameter {
    /// The name in Hugging Face files.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape in Hugging Face files.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// A handle of the values, `[rows, columns]`. While one exists, the weight can't be updated.
    pub fn value(&self) -> Tensor<2> {
        self.value.clone()
    }

    /// The identity under which directions know the weight.
    pub fn id(&self) -> ParameterId {
        self.id
    }

    /// Calls `f` with the values as they are stored, row-major and little endian.
    pub fn with_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        f(&self.bytes())
    }

    /// The values, row-major.
    pub(crate) fn values(&self) -> ParameterValues {
        ParameterValues { bytes: self.bytes(), dtype: self.value.dtype() }
    }

    fn bytes(&self) -> StoredBytes {
        stored_bytes(self.value())
    }
}

/// The values of a [`Parameter`], which can't be updated while they exist.
pub(crate) struct ParameterValues {
    bytes: StoredBytes,
    dtype: DType,
}

impl ParameterValues {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// z\[start .. start + out.len()\], with 0 where a mask leaves out the weight.
    pub(crate) fn fill_noise(&self, noise: &Noise, start: usize, out: &mut [f32]) {
        let range = start..start + out.len();
        match self.dtype {
            DType::BF16 => noise.fill_for(start, &bytemuck::cast_slice::<u8, bf16>(&self.bytes)[range], out),
            _ => noise.fill_for(start, &bytemuck::cast_slice::<u8, f32>(&self.bytes)[range], out),
        }
    }

    /// A copy.
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        match self.dtype {
            DType::BF16 => bytemuck::cast_slice::<u8, bf16>(&self.bytes).iter().map(|value| value.to_f32()).collect(),
            _ => bytemuck::cast_slice::<u8, f32>(&self.bytes).to_vec(),
        }
    }
}

/// Every weight of a pre-trained model, on a device without autodiff.
///
/// A forward pass reads the weights through a [`Perturbation`] and never writes them; only [`descend`](Self::descend)
/// does.
pub struct Backbone {
    config: Arc<DecoderConfig>,
    dtype: WeightDtype,
    compute: Compute,
    gradient_checkpointing: bool,
    device: Device,
    parameters: Vec<Parameter>,
    index: HashMap<String, usize>,
}

impl Backbone {
    /// Loads all weights: mapped from the file where its dtype and alignment allow, else converted. Products are computed
    /// in f32.
    ///
    /// # Errors
    ///
    /// Those of [`ModelFiles::load`].
    pub fn load(files: &ModelFiles, dtype: WeightDtype, device: &Device) -> Result<Self, HfError> {
        Self::load_with(files, dtype, device, Ok)
    }

    /// The same weights in files without a name in `folder`, as large as they are, so that they need not fit into memory: a
    /// pass reads them from the disk, and an update goes back to it. The numbers are the same.
    ///
    /// # Errors
    ///
    /// Those of [`ModelFiles::load`]; the folder is missing or not writable, or the disk is full.
    pub fn load_onto_disk(
        files: &ModelFiles,
        dtype: WeightDtype,
        device: &Device,
        folder: &Path,
    ) -> Result<Self, HfError> {
        Self::load_with(files, dtype, device, |weight| {
            Ok(copy_to_disk(&weight, folder).map_err(failed_to("put the weights into", folder))?)
        })
    }

    fn load_with(
        files: &ModelFiles,
        dtype: WeightDtype,
        device: &Device,
        put: impl Fn(Bytes) -> Result<Bytes, HfError>,
    ) -> Result<Self, HfError> {
        let config = Arc::new(files.config().clone());
        let load = |(name, shape): (String, Vec<usize>)| {
            let bytes = put(files.load(&name, dtype)?)?;
            Ok(Parameter::new(name, shape, bytes, dtype, device))
        };
        let parameters: Vec<Parameter> = config.parameters().into_iter().map(load).collect::<Result<_, HfError>>()?;
        let index = parameters.iter().enumerate().map(|(i, p)| (p.name.clone(), i)).collect();
        let (compute, gradient_checkpointing) = (Compute::default(), false);
        Ok(Self { config, dtype, compute, gradient_checkpointing, device: device.clone(), parameters, index })
    }

    /// The same weights, whose products are computed in another precision: f32, unless this is called.
    #[must_use]
    pub fn computing_in(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// The same weights, for exact gradients that keep the residual stream before every block alone, and compute what is
    /// inside a block again when it is its turn: less memory, for one more forward pass. Off, unless this is called.
    #[must_use]
    pub fn with_gradient_checkpointing(self, gradient_checkpointing: bool) -> Self {
        Self { gradient_checkpointing, ..self }
    }

    /// Sizes and names.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// How the weights are stored.
    pub fn dtype(&self) -> WeightDtype {
        self.dtype
    }

    /// In what precision matrix products with the weights are computed.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Whether exact gradients compute what is inside a block again.
    pub fn gradient_checkpointing(&self) -> bool {
        self.gradient_checkpointing
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All weights, in the order of the forward pass; a tied matrix once.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of weights.
    pub fn len(&self) -> usize {
        self.parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum()
    }

    /// Whether there is no weight; there always is.
    pub fn is_empty(&self) -> bool {
        self.parameters.is_empty()
    }

    /// A weight and how to read it under a perturbation.
    ///
    /// # Panics
    ///
    /// If no weight has this name: names come from [`DecoderConfig`], and all of those were loaded.
    pub(super) fn read(&self, name: &str, perturbation: &Perturbation) -> (Tensor<2>, Vec<WeightView>) {
        let parameter = &self.parameters[self.index[name]];
        (parameter.value(), perturbation.views(&parameter.name, parameter.id))
    }

    /// θ ← keep·θ − coefficient·z, in place; a weight that z does not cover stays as it is. The direction's scale is not
    /// applied: it is part of the coefficient.
    ///
    /// # Panics
    ///
    /// If a stored direction lacks a weight, or has too few values for one.
    pub fn descend(&mut self, direction: &BackboneDirection, step: impl Into<Descent>) {
        let step = step.into();
        for parameter in self.parameters.iter_mut().filter(|parameter| direction.covers(&parameter.name)) {
            parameter.descend(direction.of(&parameter.name, parameter.id), step);
        }
    }

    /// One weight of θ ← keep·θ − coefficient·z.
    pub(crate) fn descend_one(&mut self, index: usize, noise: Noise, step: Descent) {
        self.parameters[index].descend(noise, step);
    }

    /// Writes θ as a Hugging Face model folder, with configuration and tokenizer of the model that it came from.
    ///
    /// # Errors
    ///
    /// Those of [`ModelFiles::write_backbone`].
    pub fn write(&self, files: &ModelFiles, dir: &Path) -> Result<(), HfError> {
        files.write_backbone(dir, self.dtype, |name| {
            Ok::<StoredBytes, HfError>(self.parameters[self.index[name]].bytes())
        })
    }

    /// Replaces all weights by what `reader` gives, stored as they are here, in the order of
    /// [`parameters`](Self::parameters).
    pub(crate) fn read_weights(&mut self, reader: &mut dyn std::io::Read) -> std::io::Result<()> {
        for parameter in &mut self.parameters {
            let dtype = parameter.value.dtype();
            let mut bytes = vec![0u8; parameter.value.shape().num_elements() * dtype.size()];
            reader.read_exact(&mut bytes)?;
            let data = TensorData::from_bytes_vec(bytes, parameter.value.dims(), dtype);
            parameter.value = Tensor::from_data(data, (&self.device, dtype));
        }
        Ok(())
    }

    /// The same weights, in memory that both share, as leaves of a new autodiff graph. They have to be f32.
    pub(crate) fn tracked(&self) -> Self {
        let leaf = |parameter: &Parameter| Parameter {
            name: parameter.name.clone(),
            id: parameter.id,
            shape: parameter.shape.clone(),
            value: leaf(parameter.value()),
        };
        Self {
            config: self.config.clone(),
            dtype: self.dtype,
            compute: self.compute,
            gradient_checkpointing: self.gradient_checkpointing,
            device: self.device.clone(),
            parameters: self.parameters.iter().map(leaf).collect(),
            index: self.index.clone(),
        }
    }

    /// Replaces all weights, given in the order of [`parameters`](Self::parameters).
    pub(crate) fn replace_values(&mut self, values: Vec<Tensor<2>>) {
        for (parameter, value) in self.parameters.iter_mut().zip(values) {
            parameter.value = value;
        }
    }

    /// SHA-256 of every weight's bytes, in order.
    pub fn hashes(&self) -> Vec<[u8; 32]> {
        self.parameters.par_iter().map(|parameter| parameter.with_bytes(hash_bytes)).collect()
    }
}

impl Parameter {
    fn new(name: String, shape: Vec<usize>, bytes: Bytes, dtype: WeightDtype, device: &Device) -> Self {
        let dtype = match dtype {
            WeightDtype::F32 => DType::F32,
            WeightDtype::Bf16 => DType::BF16,
        };
        let columns = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().product::<usize>() / columns;
        let data = TensorData::from_bytes(bytes, [rows, columns], dtype);
        let value = Tensor::from_data(data, (device, dtype));
        let id = ParameterId::from_name(&name);
        Self { name, id, shape, value }
    }

    fn descend(&mut self, noise: Noise, step: Descent) {
        // The kernel updates in place what nobody else holds, so the weight leaves its place meanwhile.
        let empty = Tensor::empty([0, 0], &self.value.device());
        let value = std::mem::replace(&mut self.value, empty);
        self.value = zofo_kernels::tensor::descend(value, noise, step);
    }
}
