//! Numbers and values as a page shows them.

/// A number with about three significant digits.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.2e}").replace(".00e", "e")
    } else {
        let decimals = (2 - size.log10().floor() as i32).clamp(0, 4) as usize;
        format!("{value:.decimals$}")
    }
}

/// A score: four decimals tell one example of a thousand apart.
pub(super) fn score(value: f64) -> String {
    format!("{value:.4}")
}

/// A duration.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 10.0 => format!("{seconds:.2} s"),
        seconds if seconds < 120.0 => format!("{seconds:.0} s"),
        seconds if seconds < 7200.0 => format!("{:.1} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

/// A value of a configuration: text without quotes, and numbers as people write them.
pub(crate) fn toml_text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        toml::Value::Float(number) if *number != 0.0 && !(1e-3..1e5).contains(&number.abs()) => format!("{number:e}"),
        toml::Value::Float(number) => number.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_keep_their_size() {
        let texts = [0.0, 1.0, 0.123_456, 12.345, 1234.5, 1e6, -2.5e-5, 0.001_234].map(short);
        assert_eq!(texts, ["0", "1.00", "0.123", "12.3", "1234", "1e6", "-2.50e-5", "0.0012"]);
    }

    #[test]
    fn values_read_as_they_are_written() {
        let text = |toml: &str| toml_text(&toml.parse().unwrap());
        assert_eq!(
            [text("1e4"), text("2e-5"), text("1e6"), text("0.5"), text("\"mezo\"")],
            ["10000", "2e-5", "1e6", "0.5", "mezo"]
        );
        assert_eq!(text("[\"q_proj\", 1]"), "[\"q_proj\", 1]");
    }

    #[test]
    fn durations_have_fitting_units() {
        assert_eq!([1.234, 59.6, 300.0, 9000.0].map(duration), ["1.23 s", "60 s", "5.0 min", "2.5 h"]);
    }
}
