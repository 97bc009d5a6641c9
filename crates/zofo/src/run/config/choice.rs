//! Settings that are one of a few words.

/// A setting that is one of a few words.
pub trait Choice: Copy + 'static {
    /// All choices with the words for them.
    const ALL: &'static [(&'static str, Self)];
}

/// Declares an enum whose variants have names in configuration files: the one place where a word
/// and its meaning meet.
macro_rules! choices {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $( $(#[$variant_meta:meta])* $variant:ident = $word:literal, )+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
        pub enum $name {
            $( $(#[$variant_meta])* #[serde(rename = $word)] $variant, )+
        }

        impl $name {
            /// The word for it in configuration files.
            pub fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl $crate::run::config::Choice for $name {
            const ALL: &'static [(&'static str, Self)] = &[ $( ($word, Self::$variant), )+ ];
        }
    };
}

pub(super) use choices;
