//! Gradients with respect to activations: what back-propagation to an adapter needs, and no more.
//!
//! Weights of the backbone are constants. Each operation keeps the activations its gradient needs (and handles of
//! weights, which are not copies) until the backward pass.

use crate::layout::{AttentionLayout, RotaryAngles};
use crate::ops::DecoderOps;
use crate::view::{Noise, WeightView};
use burn::backend::Autodiff;
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind, unary},
};
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

unary_backward!(Project, (FloatTensor<B>, WeightView), |grad, (weight, view)| {
    B::project_backward(grad, weight, view)
});
unary_backward!(RmsNorm, (FloatTensor<B>, FloatTensor<B>, f32, WeightView), |grad, (x, weight, eps, view)| {
    B::rms_norm_backward(grad, x, weight, eps, view)
});
unary_backward!(Rotary, RotaryAngles, |grad, angles| B::rotary(grad, angles.inverse()));
unary_backward!(TokenNll, (FloatTensor<B>, FloatTensor<B>, Arc<[u32]>, WeightView), |grad,
                                                                                     (
    hidden,
    weight,
    targets,
    view,
)| {
    B::token_nll_backward(grad, hidden, weight, targets, view)
});

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
struct SiluMul;

impl<B: DecoderOps> Backward<B, 2> for SiluMul {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (gate, up) = ops.state;
        let grad = grads.consume::<B>(&ops.node);
        let (d_gate, d_up) = B::silu_mul_backward(grad, gate, up);
        for (parent, gradient) in ops.parents.into_iter().zip([d_gate, d_up]) {
            if let Some(node) = parent {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: DecoderOps, C: CheckpointStrategy> DecoderOps for Autodiff<B, C> {
    fn project(x: FloatTensor<Self>, weight: FloatTensor<Self>, view: WeightView) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let weight = weight.into_primitive();
        match Project.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = B::project(x, weight.clone(), view.clone());
                prep.finish((weight, view), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::project(x, weight, view)),
        }
    }

    fn embed(weight: FloatTensor<Self>, ids: Arc<[u32]>, view: WeightView) -> FloatTensor<Self> {
        FloatTensor::<Self>::new(B::embed(weight.into_primitive(), ids, view))
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32, view: WeightView) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let weight = weight.into_primitive();
        match RmsNorm.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let output = B::rms_norm(x.clone(), weight.clone(), eps, view.clone());
                prep.finish((x, weight, eps, view), output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::rms_norm(x, weight, eps, view)),
        }
    }

    fn rotary(x: FloatTensor<Self>, angles: RotaryAngles) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let output = B::rotary(x, angles.clone());
        match Rotary.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(angles, output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        layout: Arc<AttentionLayout>,
    ) -> FloatTensor<Self> {
        let [(q, q_node), (k, k_node), (v, v_node)] = [q, k, v].map(|x| x.into_parts());
        let output = B::attend(q.clone(), k.clone(), v.clone(), layout.clone());
        match Attend.prepare::<C>([q_node, k_node, v_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((q, k, v, layout), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let [(gate, gate_node), (up, up_node)] = [gate, up].map(|x| x.into_parts());
        let output = B::silu_mul(gate.clone(), up.clone());
        match SiluMul.prepare::<C>([gate_node, up_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((gate, up), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn token_nll(
        hidden: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        targets: Arc<[u32]>,
        view: WeightView,
    ) -> FloatTensor<Self> {
        let (hidden, node) = hidden.into_parts();
        let weight = weight.into_primitive();
        let output = B::token_nll(hidden.clone(), weight.clone(), targets.clone(), view.clone());
        match TokenNll.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((hidden, weight, targets, view), output),
            OpsKind::UnTracked(prep) => prep.finish(output),
        }
    }

    fn descend(weight: FloatTensor<Self>, noise: Noise, coefficient: f32) -> FloatTensor<Self> {
        FloatTensor::<Self>::new(B::descend(weight.into_primitive(), noise, coefficient))
    }
}
