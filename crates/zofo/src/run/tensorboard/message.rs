//! TensorBoard's messages, as far as scalars need them: `event.proto` and `summary.proto` of TensorFlow, whose numbers of
//! fields these are.

use super::scalars::Scalars;
use prost::{Message, Oneof};

/// What a record holds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    pub(super) step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `Summary.Value` in the form that PyTorch writes too.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    /// One of several kinds of values. That it is this one has to be said of a zero, too.
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.SessionStatus.START`.
const START: i32 = 1;

impl Event {
    /// What a file begins with. From version 2 on, a session's start tells readers what they have to forget.
    pub(super) fn file_version(wall_time: f64) -> Self {
        Self { wall_time, step: 0, what: Some(What::FileVersion("brain.Event:2".to_owned())) }
    }

    /// Says that what was written earlier of this step and of later ones is void.
    pub(super) fn start(wall_time: f64, step: i64) -> Self {
        Self { wall_time, step, what: Some(What::SessionLog(SessionLog { status: START })) }
    }

    /// Numbers of one step.
    pub(super) fn summary(wall_time: f64, scalars: Scalars) -> Self {
        let Scalars { step, values } = scalars;
        let scalars = values.into_iter().map(|(tag, value)| Scalar { tag, simple_value: Some(value as f32) });
        Self { wall_time, step, what: Some(What::Summary(Summary { value: scalars.collect() })) }
    }
}
