//! The arithmetic of INCRBYFLOAT: 80-bit extended floats, as C's `long double` on the machines Redis runs on.
//!
//! In software, so that every replica gives the same digits whatever it was built for. A number is `mantissa *
//! 2^exponent` with 64 bits of mantissa; reading and adding are exact and then rounded once, half to even; writing
//! is `%.17Lf` without its trailing zeros (Redis' "human" form).

use std::cmp::Ordering;

/// No number's text is longer than this: 4,932 digits before the point, a few behind it.
pub(super) const TEXT_MAX: u64 = 5_120;

/// Longest text that is read, as in Redis.
const MAX_TEXT: usize = 5 * 1024;
/// Exponent of the highest bit of the smallest normal number.
const MIN_EXPONENT: i64 = -16_382;
/// Exponent of the highest bit of the largest number.
const MAX_EXPONENT: i64 = 16_383;
/// Powers of ten beyond these are infinite or nothing, whatever digits stand before them.
const MAX_POWER: i64 = 20_000;

/// A number, read from text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Finite(Extended),
    Infinite,
}

/// A finite number. Zero has no mantissa.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Extended {
    negative: bool,
    mantissa: u64,
    exponent: i64,
}

/// Reads what `strtold` reads, if that is all of the text: decimal or hexadecimal, or infinity. A number too large
/// or too small to be told from nothing is none.
pub(super) fn parse(text: &[u8]) -> Option<Number> {
    if text.is_empty() || text.len() >= MAX_TEXT {
        return None;
    }
    let (negative, body) = match text {
        [b'-', body @ ..] => (true, body),
        [b'+', body @ ..] => (false, body),
        body => (false, body),
    };
    if body.eq_ignore_ascii_case(b"inf") || body.eq_ignore_ascii_case(b"infinity") {
        return Some(Number::Infinite);
    }
    let hexadecimal = matches!(body, [b'0', b'x' | b'X', _, ..]);
    let (radix, mark, body) = if hexadecimal { (16, b'p', &body[2..]) } else { (10, b'e', body) };
    let (digits, places, power) = take_number(body, radix, mark)?;
    let (mut top, mut bottom, mut exponent) = (digits, Big::from(1), 0);
    if hexadecimal {
        exponent = power - 4 * places;
    } else {
        let power = power - places;
        if power.abs() > MAX_POWER && !top.is_zero() {
            return None;
        }
        let scale = if power < 0 { &mut bottom } else { &mut top };
        if !scale.is_zero() {
            scale.multiply_by_power_of_ten(power.unsigned_abs());
        }
    }
    if top.is_zero() {
        return Some(Number::Finite(Extended::default()));
    }
    // Zero here means that the number was too small.
    round(negative, top, bottom, exponent).filter(|number| number.mantissa != 0).map(Number::Finite)
}

/// Digits, how many of them stand behind the point, and the exponent; `None` unless that is all of `body`.
fn take_number(body: &[u8], radix: u32, mark: u8) -> Option<(Big, i64, i64)> {
    let (mut digits, mut count, mut places, mut point) = (Big::default(), 0, 0, false);
    let mut rest = body;
    while let Some((&byte, after)) = rest.split_first() {
        match char::from(byte).to_digit(radix) {
            Some(digit) => {
                digits.multiply_add(radix, digit);
                count += 1;
                places += i64::from(point);
            }
            None if byte == b'.' && !point => point = true,
            None => break,
        }
        rest = after;
    }
    if count == 0 {
        return None;
    }
    let power = match rest {
        [] => 0,
        [first, power @ ..] if first.eq_ignore_ascii_case(&mark) => {
            let (negative, figures) = match power {
                [b'-', figures @ ..] => (true, figures),
                [b'+', figures @ ..] => (false, figures),
                figures => (false, figures),
            };
            if figures.is_empty() || !figures.iter().all(u8::is_ascii_digit) {
                return None;
            }
            // Far outside the range of the type is far enough.
            let size = figures.iter().fold(0i64, |size, b| (size * 10 + i64::from(b - b'0')).min(1 << 40));
            if negative { -size } else { size }
        }
        _ => return None,
    };
    Some((digits, places, power))
}

/// `top / bottom * 2^exponent`, rounded half to even; `None` if that is too large. `top` and `bottom` are not zero.
fn round(negative: bool, mut top: Big, mut bottom: Big, exponent: i64) -> Option<Extended> {
    // Bring the quotient into [1, 2): `lead` is then the exponent of its highest bit.
    let shift = top.bits() as i64 - bottom.bits() as i64;
    let mut lead = exponent.saturating_add(shift);
    if lead > MAX_EXPONENT + 1 {
        return None;
    }
    if shift > 0 {
        bottom.shift_left(shift as usize)
    } else {
        top.shift_left(-shift as usize)
    }
    if top.compare(&bottom) == Ordering::Less {
        top.shift_left(1);
        lead -= 1;
    }
    // Below the smallest normal number, precision goes bit by bit.
    let lowest = (lead - 63).max(MIN_EXPONENT - 63);
    let width = lead - lowest + 1;
    let mut mantissa = 0u128;
    if width < 0 {
        return Some(Extended::default());
    }
    for _ in 0..width {
        mantissa <<= 1;
        if top.compare(&bottom) != Ordering::Less {
            top.subtract(&bottom);
            mantissa |= 1;
        }
        top.shift_left(1);
    }
    let up = match top.compare(&bottom) {
        Ordering::Greater => true,
        Ordering::Equal => mantissa & 1 == 1,
        Ordering::Less => false,
    };
    mantissa += u128::from(up);
    let mut lowest = lowest;
    if mantissa >> 64 != 0 {
        mantissa >>= 1;
        lowest += 1;
    }
    let number = Extended { negative, mantissa: mantissa as u64, exponent: lowest };
    (lowest + 63 <= MAX_EXPONENT).then_some(number)
}

impl Extended {
    /// The sum, rounded once; `None` if it is too large.
    pub fn add(self, other: Extended) -> Option<Extended> {
        let (low, high) = if self.exponent <= other.exponent { (self, other) } else { (other, self) };
        let (mut left, mut right) = (Big::from(high.mantissa), Big::from(low.mantissa));
        if high.mantissa == 0 || low.mantissa == 0 {
            return Some(if high.mantissa == 0 { low } else { high });
        }
        left.shift_left((high.exponent - low.exponent) as usize);
        let mut negative = high.negative;
        if high.negative == low.negative {
            left.add(&right);
        } else {
            match left.compare(&right) {
                Ordering::Equal => return Some(Extended::default()),
                Ordering::Greater => left.subtract(&right),
                Ordering::Less => {
                    right.subtract(&left);
                    (left, negative) = (right, low.negative);
                }
            }
        }
        round(negative, left, Big::from(1), low.exponent)
    }

    /// The nearest double, half to even; infinite if there is none.
    pub fn to_double(self) -> f64 {
        // Below the smallest normal double, its last digit stays where it is.
        const LOWEST: i64 = -1074;
        let width = 64 - i64::from(self.mantissa.leading_zeros());
        let drop = (width - i64::from(f64::MANTISSA_DIGITS)).max(LOWEST - self.exponent).max(0);
        let mantissa = shift_right_rounded(u128::from(self.mantissa), drop as u64);
        let exponent = self.exponent + drop;
        // Exact, in two steps, because a power may be out of range where the product is not.
        let half = exponent.clamp(-1000, 1000);
        let size = mantissa as f64 * 2f64.powi(half as i32) * 2f64.powi((exponent - half).clamp(-2000, 2000) as i32);
        if self.negative { -size } else { size }
    }

    /// Redis' "human" form: up to 17 digits behind the point, no trailing zeros, no exponent.
    pub fn to_text(self) -> String {
        const SCALE: u128 = 100_000_000_000_000_000;
        let text = if self.exponent >= 0 {
            let mut whole = Big::from(self.mantissa);
            whole.shift_left(self.exponent as usize);
            whole.to_decimal()
        } else {
            let scaled = shift_right_rounded(u128::from(self.mantissa) * SCALE, self.exponent.unsigned_abs());
            let fraction = format!("{:017}", scaled % SCALE);
            let fraction = fraction.trim_end_matches('0');
            let point = if fraction.is_empty() { "" } else { "." };
            format!("{}{point}{fraction}", scaled / SCALE)
        };
        if self.negative && text != "0" { format!("-{text}") } else { text }
    }
}

/// `number / 2^by`, half to even.
fn shift_right_rounded(number: u128, by: u64) -> u128 {
    if by > 127 {
        // Scaled numbers have at most 121 bits: less than half of one is left.
        return 0;
    }
    let (whole, rest, half) = (number >> by, number & ((1 << by) - 1), 1u128 << by >> 1);
    let up = rest > half || (rest == half && by > 0 && whole & 1 == 1);
    whole + u128::from(up)
}

/// A natural number of any size; limbs of 32 bits, least first, none of them a leading zero.
#[derive(Debug, Clone, Default)]
struct Big(Vec<u32>);

impl From<u64> for Big {
    fn from(number: u64) -> Big {
        let mut big = Big(vec![number as u32, (number >> 32) as u32]);
        big.trim();
        big
    }
}

impl Big {
    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn bits(&self) -> usize {
        self.0.last().map_or(0, |top| self.0.len() * 32 - top.leading_zeros() as usize)
    }

    fn multiply_add(&mut self, factor: u32, add: u32) {
        let mut carry = u64::from(add);
        for limb in &mut self.0 {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn multiply_by_power_of_ten(&mut self, power: u64) {
        (0..power / 9).for_each(|_| self.multiply_add(1_000_000_000, 0));
        (0..power % 9).for_each(|_| self.multiply_add(10, 0));
    }

    fn shift_left(&mut self, by: usize) {
        if self.is_zero() {
            return;
        }
        let bits = by % 32;
        if bits != 0 {
            let mut carry = 0;
            for limb in &mut self.0 {
                let wide = u64::from(*limb) << bits | carry;
                *limb = wide as u32;
                carry = wide >> 32;
            }
            if carry != 0 {
                self.0.push(carry as u32);
            }
        }
        self.0.splice(0..0, std::iter::repeat_n(0, by / 32));
    }

    fn compare(&self, other: &Big) -> Ordering {
        self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }

    fn add(&mut self, other: &Big) {
        let length = self.0.len().max(other.0.len());
        self.0.resize(length, 0);
        let mut carry = 0;
        for (at, limb) in self.0.iter_mut().enumerate() {
            carry += u64::from(*limb) + u64::from(other.0.get(at).copied().unwrap_or(0));
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    /// `other` must not be the greater.
    fn subtract(&mut self, other: &Big) {
        let mut borrow = 0;
        for (at, limb) in self.0.iter_mut().enumerate() {
            let difference = i64::from(*limb) - i64::from(other.0.get(at).copied().unwrap_or(0)) - borrow;
            *limb = difference as u32;
            borrow = i64::from(difference < 0);
        }
        self.trim();
    }

    fn to_decimal(&self) -> String {
        let (mut rest, mut groups) = (self.clone(), Vec::new());
        while !rest.is_zero() {
            let mut carry = 0u64;
            for limb in rest.0.iter_mut().rev() {
                carry = carry << 32 | u64::from(*limb);
                *limb = (carry / 1_000_000_000) as u32;
                carry %= 1_000_000_000;
            }
            rest.trim();
            groups.push(carry);
        }
        let Some(first) = groups.pop() else { return "0".into() };
        groups.iter().rev().fold(first.to_string(), |text, group| text + &format!("{group:09}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(left: &str, right: &str) -> Option<String> {
        match (parse(left.as_bytes())?, parse(right.as_bytes())?) {
            (Number::Finite(left), Number::Finite(right)) => left.add(right).map(Extended::to_text),
            _ => Some("infinite".into()),
        }
    }

    /// Replies of a real Redis on x86-64.
    #[test]
    fn sums_have_the_digits_of_redis() {
        for (left, right, expected) in [
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0", "1.1", "1.1"),
            ("3", "-5", "-2"),
            ("1.1", "-1.1", "0"),
            ("0.1", "0.2", "0.3"),
            ("1", "1e-17", "1.00000000000000001"),
            ("1", "1e-18", "1"),
            ("0", "1e-18", "0"),
            ("0", "-1e-18", "0"),
            ("0x10", "0x.8p1", "17"),
            ("12345678901234567890", "1", "12345678901234567891"),
            ("1e30", "0", "1000000000000000000024696061952"),
            ("0.3333333333333333333333333", "0", "0.33333333333333333"),
            ("+1.", ".5", "1.5"),
            ("-0", "0", "0"),
        ] {
            assert_eq!(sum(left, right).as_deref(), Some(expected), "{left} + {right}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in
            ["", " 1", "1 ", "abc", "nan", "-nan", "1e", "1e+", ".", "-", "0x", "1..2", "1e5000", "1e-5000", "in"]
        {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        for text in ["inf", "-INF", "Infinity"] {
            assert_eq!(parse(text.as_bytes()), Some(Number::Infinite));
        }
        assert!(parse(&[b'1'; MAX_TEXT]).is_none());
        assert!(parse(&[b'0'; MAX_TEXT - 1]).is_some());
    }

    #[test]
    fn the_ends_of_the_range_are_where_they_are() {
        assert!(sum("1.18973149535723176502e4932", "0").is_some());
        assert_eq!(sum("1.18973149535723176509e4932", "0"), None);
        assert_eq!(sum("1.18973149535723176502e4932", "1.18973149535723176502e4932"), None);
        assert!(parse(b"3.7e-4951").is_some(), "the smallest denormal");
        assert!(parse(b"1.8e-4951").is_none(), "less than half of it");
    }

    #[test]
    fn doubles_agree_where_they_are_exact() {
        for (left, right) in [(1.5f64, 2.25), (-1024.125, 0.5), (1048576.0, -0.0009765625), (3.0, 4.0)] {
            let text = sum(&left.to_string(), &right.to_string()).unwrap();
            assert_eq!(text, (left + right).to_string());
        }
    }
}
