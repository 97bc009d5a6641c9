//! The task file as it is written, before anything is compiled.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::task::metric::Metric;
use crate::task::source::Source;
use crate::task::template::TemplateName;

/// A task file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::task) struct TaskFile {
    pub(super) name: String,
    pub(super) description: String,
    #[serde(default)]
    pub(super) kind: Kind,
    pub(super) metric: Option<Metric>,
    pub(super) candidates: Option<Vec<String>>,
    pub(super) candidate: Option<String>,
    pub(super) answer: Option<String>,
    pub(super) source: Option<Source>,
    pub(super) generation: Option<Generation>,
    #[serde(default)]
    pub(super) fields: BTreeMap<String, Field>,
    pub(super) label: Option<LabelSource>,
    #[serde(default)]
    pub(super) template: BTreeMap<TemplateName, TemplateSource>,
}

/// What a model is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// To choose among candidate answers, by their likelihood.
    #[default]
    Classification,
    /// To write the answer.
    Generation,
    /// To go on with a conversation as the assistant.
    Chat,
}

impl Kind {
    /// The word for it in task files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Classification => "classification",
            Kind::Generation => "generation",
            Kind::Chat => "chat",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// How an answer is generated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Texts that end an answer; they are not part of it. The end-of-text token always ends one.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Tokens after which it ends at the latest.
    #[serde(default = "Generation::default_length")]
    pub max_new_tokens: usize,
}

impl Generation {
    const fn default_length() -> usize {
        50
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self { stop: Vec::new(), max_new_tokens: Self::default_length() }
    }
}

/// The type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FieldType {
    /// A string.
    String,
    /// A list of strings.
    Strings,
    /// A number without a fraction.
    Integer,
    /// `true` or `false`.
    Boolean,
}

impl FieldType {
    /// The word for it in task files.
    pub const fn as_str(self) -> &'static str {
        match self {
            FieldType::String => "string",
            FieldType::Strings => "strings",
            FieldType::Integer => "integer",
            FieldType::Boolean => "boolean",
        }
    }
}

/// What a task requires of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its type.
    pub kind: FieldType,
    /// If not empty, the only strings allowed.
    pub one_of: Vec<String>,
    /// The columns where it may be, the first that a row has counts; a full stop leads into a column. If empty, the
    /// column of its own name.
    pub from: Vec<String>,
    /// Whether a row may lack it.
    pub optional: bool,
}

/// The label section.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::task) struct LabelSource {
    #[serde(default, deserialize_with = "one_or_many")]
    pub(in crate::task) field: Vec<String>,
    pub(in crate::task) value: Option<String>,
    #[serde(default, deserialize_with = "classes")]
    pub(in crate::task) values: Option<Vec<Vec<Value>>>,
    pub(in crate::task) names: Option<Vec<String>>,
    pub(in crate::task) choices: Option<String>,
}

/// A template section.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::task) struct TemplateSource {
    /// Jinja source of the prompt.
    pub(in crate::task) prompt: String,
    /// Jinja sources of the candidate answers, in label order. A blank that separates an answer from the prompt belongs
    /// to it.
    pub(in crate::task) candidates: Option<Vec<String>>,
    /// Jinja source of the candidate answer for each `item` of the list that `label.choices` names.
    pub(in crate::task) candidate: Option<String>,
    /// Jinja source of the text that follows the prompt when an `answer` is trained on.
    pub(in crate::task) answer: Option<String>,
    /// Jinja source of the prompt of surface-form calibration.
    pub(in crate::task) null: Option<String>,
    /// Whether candidates may be alike, as in published templates with a mistake.
    #[serde(default)]
    pub(in crate::task) identical_candidates: bool,
}

impl<'de> Deserialize<'de> for Field {
    /// A type alone, or a table.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            #[serde(rename = "type")]
            kind: FieldType,
            #[serde(default)]
            one_of: Vec<String>,
            #[serde(default, deserialize_with = "one_or_many")]
            from: Vec<String>,
            #[serde(default)]
            optional: bool,
        }

        struct FieldVisitor;

        impl<'de> Visitor<'de> for FieldVisitor {
            type Value = Field;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a type, such as \"string\", or a table, such as { type = \"string\" }")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Field, E> {
                let kind = FieldType::deserialize(serde::de::value::StrDeserializer::<E>::new(name))?;
                Ok(Field { kind, one_of: Vec::new(), from: Vec::new(), optional: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field, A::Error> {
                let Table { kind, one_of, from, optional } = Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Field { kind, one_of, from, optional })
            }
        }

        deserializer.deserialize_any(FieldVisitor)
    }
}

/// A string, or a list of strings.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("the name of a column, or a list of them")
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<Vec<String>, E> {
            Ok(vec![name.to_owned()])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = list.next_element()? {
                names.push(name);
            }
            Ok(names)
        }
    }

    deserializer.deserialize_any(Names)
}

/// What stands for each class: a value, or a list of values.
fn classes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Vec<Value>>>, D::Error> {
    let scalar = |value: &Value| value.is_string() || value.is_boolean() || value.is_i64() || value.is_u64();
    let classes = Vec::<Value>::deserialize(deserializer)?.into_iter().map(|class| {
        let values = match class {
            Value::Array(values) => values,
            value => vec![value],
        };
        match values.iter().all(scalar) && !values.is_empty() {
            true => Ok(values),
            false => Err(D::Error::custom("a class stands for a string, an integer, true or false, or a list of such")),
        }
    });
    classes.collect::<Result<_, _>>().map(Some)
}
