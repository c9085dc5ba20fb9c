//! Numbers for a person, by unit.

/// What stands for a difference of exactly nothing.
const EQUAL: &str = "=";

const BINARY: [(&str, f64); 4] =
    [("TiB", 1_099_511_627_776.0), ("GiB", 1_073_741_824.0), ("MiB", 1_048_576.0), ("KiB", 1024.0)];

/// A count of things: `1 cell`, `2 cells`.
pub fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// A value with its unit where the unit scales: `12.50 MiB`, `3.20 s`, `1534`, `0.6123`.
pub fn quantity(value: f64, unit: &str) -> String {
    scaled(value, value, unit)
}

/// A signed difference, scaled on its own: `+0.0123`, `-1.50 MiB`, `=`.
pub(super) fn difference(difference: f64, value: f64, unit: &str) -> String {
    if difference == 0.0 {
        return EQUAL.into();
    }
    let text = scaled(difference, value, unit);
    let shows_nothing = !text.contains(|c: char| ('1'..='9').contains(&c)) && difference.is_finite();
    let text = if shows_nothing { format!("{difference:.1e}") } else { text };
    if difference > 0.0 { format!("+{text}") } else { text }
}

/// Whether [`quantity`] itself shows the unit.
pub(super) fn shows_unit(unit: &str) -> bool {
    matches!(unit, "bytes" | "s")
}

/// `beside`: the value next to which the number is read; it decides the decimals of a pure number.
fn scaled(number: f64, beside: f64, unit: &str) -> String {
    if !number.is_finite() {
        return number.to_string().to_lowercase();
    }
    match unit {
        "bytes" => bytes(number),
        "s" => seconds(number),
        "tokens/s" if beside.abs() >= 10.0 => format!("{number:.0}"),
        "tokens/s" => format!("{number:.2}"),
        _ => pure(number, beside),
    }
}

fn bytes(number: f64) -> String {
    match BINARY.iter().find(|(_, size)| number.abs() >= *size) {
        Some((name, size)) => format!("{:.2} {name}", number / size),
        None => format!("{number:.0} B"),
    }
}

fn seconds(number: f64) -> String {
    match number.abs() {
        n if n >= 1.0 => format!("{number:.2} s"),
        n if n >= 1e-3 => format!("{:.2} ms", number * 1e3),
        0.0 => "0 s".into(),
        _ => format!("{:.2} µs", number * 1e6),
    }
}

/// Probabilities and the like to four decimals, large numbers to two; whole ones from two on are counts.
fn pure(number: f64, beside: f64) -> String {
    let whole = |x: f64| x.fract() == 0.0;
    match beside.abs() {
        n if n >= 2.0 && whole(number) && whole(beside) => format!("{number:.0}"),
        n if n >= 1000.0 => format!("{number:.2}"),
        _ => format!("{number:.4}"),
    }
}

/// A duration in milliseconds: `340 ms`, `12.3 s`, `4 min 05 s`, `2 h 03 min`.
pub fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{:.1} s", ms as f64 / 1000.0),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_several() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "cell")), ["0 cells", "1 cell", "2 cells"]);
    }

    #[test]
    fn values_read_by_unit() {
        assert_eq!(quantity(13_107_200.0, "bytes"), "12.50 MiB");
        assert_eq!(quantity(512.0, "bytes"), "512 B");
        assert_eq!(quantity(0.612_34, ""), "0.6123");
        assert_eq!(quantity(1533.7, "tokens/s"), "1534");
        assert_eq!(quantity(0.0032, "s"), "3.20 ms");
        assert_eq!(quantity(23.456_78, ""), "23.4568");
        assert_eq!((quantity(500.0, ""), quantity(1.0, "")), ("500".into(), "1.0000".into()));
        assert_eq!(quantity(f64::INFINITY, ""), "inf");
        assert_eq!(quantity(f64::NAN, "bytes"), "nan");
    }

    #[test]
    fn differences_are_signed_and_never_vanish() {
        assert_eq!(difference(0.0123, 0.6, ""), "+0.0123");
        assert_eq!(difference(-1_572_864.0, 1e9, "bytes"), "-1.50 MiB");
        assert_eq!(difference(0.0, 1.0, ""), "=");
        assert_eq!(difference(-0.000_001, 0.5, ""), "-1.0e-6");
        assert_eq!(difference(f64::INFINITY, f64::INFINITY, ""), "+inf");
    }

    #[test]
    fn durations_take_the_unit_that_reads_best() {
        let shown = [340, 12_345, 245_000, 7_380_000].map(duration);
        assert_eq!(shown, ["340 ms", "12.3 s", "4 min 05 s", "2 h 03 min"]);
    }
}
