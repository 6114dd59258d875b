//! Numbers as C prints them: `%.<precision>g`.

/// What `printf("%.{precision}g", value)` prints, for a precision of 1 to 17.
pub(super) fn general(value: f64, precision: usize) -> String {
    if value.is_nan() {
        return if value.is_sign_negative() { "-nan".into() } else { "nan".into() };
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let precision = precision.clamp(1, 17);
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let scientific = format!("{value:.*e}", precision - 1);
    let (digits, power) = scientific.split_once('e').expect("the form has an exponent");
    let power: i32 = power.parse().expect("an exponent is a number");
    if power < -4 || power >= precision as i32 {
        let digits = without_zeros(digits);
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", power.abs());
    }
    let places = (precision as i32 - 1 - power).max(0) as usize;
    without_zeros(&format!("{value:.places$}")).to_owned()
}

fn without_zeros(digits: &str) -> &str {
    match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    }
}

/// The integer a double is, as C's cast on the machines Redis runs on: what does not fit is the smallest.
pub(super) fn truncated(value: f64) -> i64 {
    const EDGE: f64 = 9_223_372_036_854_775_808.0;
    if (-EDGE..EDGE).contains(&value) { value as i64 } else { i64::MIN }
}

/// A double that is an integer and safely printed as one.
pub(super) fn as_integer(value: f64) -> Option<i64> {
    const SAFE: f64 = (1u64 << 52) as f64;
    (value.abs() <= SAFE && value.trunc() == value).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_as_c_does() {
        for (value, precision, text) in [
            (0.1, 17, "0.10000000000000001"),
            (1.5, 17, "1.5"),
            (1e20, 17, "1e+20"),
            (100.0, 14, "100"),
            (1e14, 14, "1e+14"),
            (123456789012345678.0, 14, "1.2345678901235e+17"),
            (-0.0001, 14, "-0.0001"),
            (0.00001, 14, "1e-05"),
            (9.99999, 3, "10"),
            (0.0, 14, "0"),
            (-0.0, 14, "-0"),
            (1e300, 1, "1e+300"),
            (f64::INFINITY, 14, "inf"),
            (2.34567, 3, "2.35"),
        ] {
            assert_eq!(general(value, precision), text);
        }
        assert_eq!((truncated(-3.99), truncated(1e300), truncated(f64::NAN)), (-3, i64::MIN, i64::MIN));
        assert_eq!((as_integer(3.0), as_integer(3.5), as_integer(1e20)), (Some(3), None, None));
    }
}
