//! Gradients with respect to activations: what back-propagation to an adapter needs, and no more.
//!
//! Weights of the backbone are constants, unless one requires a gradient itself: the operation then is made of Burn's, by
//! the reference implementation, whose gradients Burn knows. Each other operation keeps the activations its gradient needs (and handles of
//! weights, which are not copies) until the backward pass.

use crate::activation::Activation;
use crate::compute::Compute;
use crate::direction::Descent;
use crate::layout::{AttentionLayout, RotaryAngles};
use crate::ops::DecoderOps;
use crate::reference;
use crate::view::{Noise, WeightView};
use burn::backend::Autodiff;
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, NodeGuard, Ops, OpsKind, unary},
};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use std::sync::Arc;

/// Implements [`Backward`] for an operation of one tracked input: its gradient as a function of the output's.
macro_rules! unary_backward {
    ($name:ident, $state:ty, |$grad:ident, $saved:pat_param| $body:expr) => {
        #[derive(Debug)]
        struct $name;

        impl<B: DecoderOps> Backward<B, 1> for $name {
            type State = $state;

            fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
                let $saved = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |$grad| $body);
            }
        }
    };
}

unary_backward!(Project, (FloatTensor<B>, WeightView, Compute), |grad, (weight, view, compute)| {
    B::project_transposed(grad, weight, view, compute)
});
unary_backward!(ProjectTransposed, (FloatTensor<B>, WeightView, Compute), |grad, (weight, view, compute)| {
    B::project(grad, weight, view, compute)
});
unary_backward!(AddBias, (), |grad, ()| grad);
unary_backward!(LayerNorm, (FloatTensor<B>, FloatTensor<B>, f32, WeightView), |grad, (x, weight, eps, view)| {
    B::layer_norm_backward(grad, x, weight, eps, view)
});
unary_backward!(RmsNorm, (FloatTensor<B>, FloatTensor<B>, f32, bool, WeightView), |grad, saved| {
    let (x, weight, eps, unit_offset, view) = saved;
    B::rms_norm_backward(grad, x, weight, eps, unit_offset, view)
});
unary_backward!(Rotary, RotaryAngles, |grad, angles| B::rotary(grad, angles.inverse()));
unary_backward!(Activate, (FloatTensor<B>, Activation), |grad, (x, activation)| {
    B::activate_backward(grad, x, activation)
});
unary_backward!(
    TokenNll,
    (FloatTensor<B>, FloatTensor<B>, Arc<[u32]>, Option<f32>, WeightView, Compute),
    |grad, saved| {
        let (hidden, weight, targets, softcap, view, compute) = saved;
        B::token_nll_backward(grad, hidden, weight, targets, softcap, view, compute)
    }
);

#[derive(Debug)]
struct Attend;

impl<B: DecoderOps> Backward<B, 3> for Attend {
    type State = (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, Arc<AttentionLayout>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (q, k, v, layout) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let (dq, dk, dv) = B::attend_backward(grad, q, k, v, layout);
        for (parent, gradient) in ops.parents.into_iter().zip([dq, dk, dv]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Gated;

impl<B: DecoderOps> Backward<B, 2> for Gated {
    type State = (FloatTensor<B>, FloatTensor<B>, Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (gate, up, activation) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let (d_gate, d_up) = B::gated_backward(grad, gate, up, activation);
        for (parent, gradient) in ops.parents.into_iter().zip([d_gate, d_up]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

trait Record<B: DecoderOps, const N: usize>: Backward<B, N> {
    /// The output of this operation, with `state` kept for its gradient if an input is tracked.
    fn record<C: CheckpointStrategy>(
        self,
        inputs: [NodeGuard; N],
        state: Self::State,
        output: FloatTensor<B>,
    ) -> FloatTensor<Autodiff<B, C>> {
        match self.prepare::<C>(inputs).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }
}

impl<B: DecoderOps, const N: usize, O: Backward<B, N>> Record<B, N> for O {}

impl<B: DecoderOps, C: CheckpointStrategy> DecoderOps for Autodiff<B, C> {
    fn project(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        view: WeightView,
        compute: Compute,
    ) -> FloatTensor<Self> {
        if Self::float_is_require_grad(&weight) {
            return reference::project::<Self>(x, weight, &view, compute);
        }
        let (x, node) = x.into_parts();
        let weight = weight.into_primitive();
        let output = B::project(x, weight.clone(), view.clone(), compute);
        Project.record::<C>([node], (weight, view, compute), output)
    }

    fn project_transposed(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        view: WeightView,
        compute: Compute,
    ) -> FloatTensor<Self> {
        if Self::float_is_require_grad(&weight) {
            return reference::project_transposed::<Self>(x, weight, &view, compute);
        }
        let (x, node) = x.into_parts();
        let weight = weight.into_primitive();
        let output = B::project_transposed(x, weight.clone(), view.clone(), compute);
        ProjectTransposed.record::<C>([node], (weight, view, compute), output)
    }

    fn add_bias(x: FloatTensor<Self>, bias: FloatTensor<Self>, view: WeightView) -> FloatTensor<Self> {
        if Self::float_is_require_grad(&bias) {
            return reference::add_bias::<Self>(x, bias, &view);
        }
        let (x, node) = x.into_parts();
        AddBias.record::<C>([node], (), B::add_bias(x, bias.into_primitive(), view))
    }

    fn embed(weight: FloatTensor<Self>, ids: Arc<[u32]>, view: WeightView) -> FloatTensor<Self> {
        if Self::float_is_require_grad(&weight) {
            return reference::embed::<Self>(weight, &ids, &view);
        }
        FloatTensor::<Self>::new(B::embed(weight.into_primitive(), ids, view))
    }

    fn layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f32,
        weight_view: WeightView,
        bias_view: WeightView,
    ) -> FloatTensor<Self> {
        if Self::float_is_require_grad(&weight) {
            return reference::layer_norm::<Self>(x, weight, bias, eps, &weight_view, &bias_view);
        }
        let (x, node) = x.into_parts();
        let (weight, bias) = (weight.into_primitive(), bias.into_primitive());
        let output =
            <B as DecoderOps>::layer_norm(x.clone(), weight.clone(), bias, eps, weight_view.clone(), bias_view);
        LayerNorm.record::<C>([node], (x, weight, eps, weight_view), output)
    }

    fn rms_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
        unit_offset: bool,
        view: WeightView,
    ) -> FloatTensor<Self> {
        if Self::float_is_require_grad(&weight) {
            return reference::rms_norm::<Self>(x, weight, eps, unit_offset, &view);
        }
        let (x, node) = x.into_parts();
        let weight = weight.into_primitive();
        let output = B::rms_norm(x.clone(), weight.clone(), eps, unit_offset, view.clone());
        RmsNorm.record::<C>([node], (x, weight, eps, unit_offset, view), output)
    }

    fn rotary(x: FloatTensor<Self>, angles: RotaryAngles) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = B::rotary(x, angles.clone());
        Rotary.record::<C>([node], angles, output)
    }

    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> FloatTensor<Self> {
        let [(q, q_node), (k, k_node), (v, v_node)] = [q, k, v].map(|x| x.into_parts());
        let output = B::attend(q.clone(), k.clone(), v.clone(), layout.clone());
        Attend.record::<C>([q_node, k_node, v_node], (q, k, v, layout), output)
    }

    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = B::activate(x.clone(), activation);
        Activate.record::<C>([node], (x, activation), output)
    }

    fn gated(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        let [(gate, gate_node), (up, up_node)] = [gate, up].map(|x| x.into_parts());
        let output = B::gated(gate.clone(), up.clone(), activation);
        Gated.record::<C>([gate_node, up_node], (gate, up, activation), output)
    }

    fn token_nll(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[u32]>,
        softcap: Option<f32>,
        view: WeightView,
        compute: Compute,
    ) -> FloatTensor<Self> {
        if Self::float_is_require_grad(&weight) {
            return reference::token_nll::<Self>(hidden, weight, &targets, softcap, &view, compute);
        }
        let (hidden, node) = hidden.into_parts();
        let weight = weight.into_primitive();
        let output = B::token_nll(hidden.clone(), weight.clone(), targets.clone(), softcap, view.clone(), compute);
        TokenNll.record::<C>([node], (hidden, weight, targets, softcap, view, compute), output)
    }

    fn descend(weight: FloatTensor<Self>, noise: Noise, step: Descent) -> FloatTensor<Self> {
        FloatTensor::<Self>::new(B::descend(weight.into_primitive(), noise, step))
    }
}
