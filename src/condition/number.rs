//! Numbers in the values of keys: compared as they are written, digit by digit, so that nothing is rounded.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A number to compare the value of a key with. It is made from any integer or float type except `u128`.
///
/// Comparison is exact, digit by digit, however many there are: `9007199254740993` is greater than
/// `9007199254740992.0`, and `5.0000000000000000001` is greater than 5. A float stands for the shortest decimal
/// number that Rust reads as this float, which is the one that was written: `36.6` is at least `36.6_f64`.
///
/// ```
/// use etcd_rules::key;
/// let many = key("/queue/:name/length").greater_than(1_000);
/// let hot = key("/sensor/:id/celsius").at_least(36.6);
/// assert_eq!((many | hot).to_string(), "/queue/:name/length > 1000 or /sensor/:id/celsius >= 36.6");
/// ```
#[derive(Clone, Copy)]
pub struct Number(Kind);

#[derive(Clone, Copy)]
enum Kind {
    Integer(i128),
    Single(f32),
    Double(f64),
}

/// What a value is compared with: a number, and its decimal digits, written once.
#[derive(Clone)]
pub(crate) struct Bound {
    number: Number,
    text: Arc<str>,
}

impl Bound {
    pub(super) fn new(number: Number) -> Self {
        let text = match number.0 {
            Kind::Integer(integer) => integer.to_string(),
            // The shortest digits that mean this float, which are those that its author wrote.
            Kind::Single(float) => format!("{float:e}"),
            Kind::Double(float) => format!("{float:e}"),
        };
        Self { number, text: text.into() }
    }

    /// How a value stands to the bound; an error says why that can't be told.
    pub(super) fn compare(&self, value: &[u8]) -> Result<Ordering, NoNumber> {
        let value = Decimal::read(value)?;
        match self.number.infinity() {
            Some(sign) => Ok(sign.reverse()),
            None => Ok(value.cmp(&Decimal::read(self.text.as_bytes())?)),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number.fmt(f)
    }
}

impl Number {
    /// False for "not a number", with which nothing compares.
    pub(super) fn is_comparable(self) -> bool {
        match self.0 {
            Kind::Integer(_) => true,
            Kind::Single(float) => !float.is_nan(),
            Kind::Double(float) => !float.is_nan(),
        }
    }

    /// How it stands to all finite numbers, if it is infinite.
    fn infinity(self) -> Option<Ordering> {
        let float = match self.0 {
            Kind::Integer(_) => return None,
            Kind::Single(float) => f64::from(float),
            Kind::Double(float) => float,
        };
        float.is_infinite().then(|| float.total_cmp(&0.0))
    }
}

/// Why a text is no number that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoNumber {
    /// It is not written like a decimal number.
    NotDecimal,
    /// Its exponent has more than [`EXPONENT_DIGITS`] digits.
    LongExponent,
}

impl fmt::Display for NoNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDecimal => f.write_str("which is no decimal number"),
            Self::LongExponent => {
                write!(f, "whose exponent has more than {EXPONENT_DIGITS} digits, which is not compared")
            }
        }
    }
}

/// Digits of an exponent at most: of more, the place of a digit could not be counted.
const EXPONENT_DIGITS: usize = 18;

/// A decimal number of any length, as it is written. Nothing is rounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal<'a> {
    negative: bool,
    /// The digits before and behind the point, from the first that is not zero.
    whole: &'a [u8],
    fraction: &'a [u8],
    /// How many places before the point the first digit stands; 0 is the first place behind it.
    magnitude: i128,
}

impl<'a> Decimal<'a> {
    /// Reads a decimal number, perhaps with a sign, a fraction, an exponent, and white space around it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, NoNumber> {
        let text = bytes.trim_ascii();
        let (negative, text) = match text.split_first() {
            Some((b'-', rest)) => (true, rest),
            Some((b'+', rest)) => (false, rest),
            _ => (false, text),
        };
        let (whole, rest) = digits(text);
        let (fraction, rest) = match rest.split_first() {
            Some((b'.', rest)) => digits(rest),
            _ => (&[][..], rest),
        };
        let exponent = match rest.split_first() {
            None => 0,
            Some((b'e' | b'E', exponent)) => read_exponent(exponent)?,
            Some(_) => return Err(NoNumber::NotDecimal),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(NoNumber::NotDecimal);
        }
        let zeros = |digits: &[u8]| digits.iter().take_while(|digit| **digit == b'0').count();
        let whole = &whole[zeros(whole)..];
        let skipped = if whole.is_empty() { zeros(fraction) } else { 0 };
        let magnitude = i128::from(exponent) + whole.len() as i128 - skipped as i128;
        Ok(Self { negative, whole, fraction: &fraction[skipped..], magnitude })
    }

    fn is_zero(&self) -> bool {
        self.digits().all(|digit| digit == b'0')
    }

    fn digits(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.whole.iter().chain(self.fraction).copied()
    }

    /// The digits, and zeros behind them.
    fn padded(&self, length: usize) -> impl Iterator<Item = u8> + use<'a> {
        self.digits().chain(std::iter::repeat(b'0')).take(length)
    }

    /// The order of the numbers without their signs. Neither is zero.
    fn cmp_size(&self, other: &Self) -> Ordering {
        let length = (self.whole.len() + self.fraction.len()).max(other.whole.len() + other.fraction.len());
        self.magnitude.cmp(&other.magnitude).then_with(|| self.padded(length).cmp(other.padded(length)))
    }

    /// The exact order.
    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        let sign = |number: &Self| match (number.is_zero(), number.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        sign(self).cmp(&sign(other)).then_with(|| match sign(self) {
            0 => Ordering::Equal,
            -1 => other.cmp_size(self),
            _ => self.cmp_size(other),
        })
    }
}

/// The digits that a text begins with, and what follows them.
fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

fn read_exponent(text: &[u8]) -> Result<i64, NoNumber> {
    let (negative, text) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let (digits, rest) = digits(text);
    if digits.is_empty() || !rest.is_empty() {
        return Err(NoNumber::NotDecimal);
    }
    let digits = &digits[digits.iter().take_while(|digit| **digit == b'0').count()..];
    if digits.len() > EXPONENT_DIGITS {
        return Err(NoNumber::LongExponent);
    }
    let size = digits.iter().fold(0, |size: i64, digit| size * 10 + i64::from(digit - b'0'));
    Ok(if negative { -size } else { size })
}

macro_rules! from_integer {
    ($($integer:ty)*) => {$(
        impl From<$integer> for Number {
            fn from(integer: $integer) -> Self {
                Self(Kind::Integer(integer.into()))
            }
        }
    )*};
}
from_integer!(i8 i16 i32 i64 i128 u8 u16 u32 u64);

impl From<usize> for Number {
    fn from(integer: usize) -> Self {
        Self::from(integer as u64)
    }
}

impl From<isize> for Number {
    fn from(integer: isize) -> Self {
        Self::from(integer as i64)
    }
}

impl From<f32> for Number {
    fn from(float: f32) -> Self {
        Self(Kind::Single(float))
    }
}

impl From<f64> for Number {
    fn from(float: f64) -> Self {
        Self(Kind::Double(float))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Integer(integer) => integer.fmt(f),
            Kind::Single(float) => float.fmt(f),
            Kind::Double(float) => float.fmt(f),
        }
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ordering::{Equal, Greater, Less};

    #[test]
    fn numbers_compare_exactly() {
        let cases: &[(&str, &str, Number, Option<Ordering>)] = &[
            ("integers", "5", 7.into(), Some(Less)),
            ("negative integers", "-5", (-7).into(), Some(Greater)),
            ("an integer and an equal float", "5", 5.0.into(), Some(Equal)),
            ("an integer below a fraction", "5", 5.5.into(), Some(Less)),
            ("an integer above a fraction", "5", 4.5.into(), Some(Greater)),
            ("a long integer and a long float", "123456789012345678901234567890", 1e29.into(), Some(Greater)),
            ("a negative integer above a fraction", "-5", (-5.5).into(), Some(Greater)),
            ("a fraction above an integer", "5.5", 5.into(), Some(Greater)),
            ("what a float would round away", "9007199254740993", 9007199254740992.0.into(), Some(Greater)),
            ("the greatest u64", "18446744073709551615", u64::MAX.into(), Some(Equal)),
            ("an integer and a float beyond all integers", "1", 1e300.into(), Some(Less)),
            ("an integer and a float below all integers", "1", (-1e300).into(), Some(Greater)),
            ("the least integer", &i128::MIN.to_string(), i128::MIN.into(), Some(Equal)),
            ("a digit behind those of a float", "5.0000000000000000001", 5.0.into(), Some(Greater)),
            ("a float as it was written", "36.6", 36.6.into(), Some(Equal)),
            ("a short float as it was written", "36.6", 36.6_f32.into(), Some(Equal)),
            ("the last digit of a float", "0.1", (0.1 + 0.2 - 0.2).into(), Some(Less)),
            ("400 nines", &"9".repeat(400), f64::MAX.into(), Some(Greater)),
            ("400 nines below zero", &format!("-{}", "9".repeat(400)), f64::MIN.into(), Some(Less)),
            ("400 zeros before a digit", &format!("{}7", "0".repeat(400)), 7.into(), Some(Equal)),
            ("400 zeros behind the point", &format!("0.{}7", "0".repeat(400)), 0.into(), Some(Greater)),
            ("an exponent beyond floats", "1e400", f64::MAX.into(), Some(Greater)),
            ("an exponent that undoes zeros", "0.0001e4", 1.into(), Some(Equal)),
            ("a long exponent", "1e-999999999999999999", 0.into(), Some(Greater)),
            ("zeros before an exponent", "1e0000000000000000000000003", 1000.into(), Some(Equal)),
            ("a point without digits behind it", "5.", 5.into(), Some(Equal)),
            ("a point without digits before it", ".5", 0.5.into(), Some(Equal)),
            ("more digits than an integer has", &"9".repeat(50), i128::MAX.into(), Some(Greater)),
            ("an infinite bound", "1", f64::INFINITY.into(), Some(Less)),
            ("an exponent", "1e3", 1000.into(), Some(Equal)),
            ("a sign", "+1", 1.into(), Some(Equal)),
            ("white space around", " 1\n", 1.into(), Some(Equal)),
            ("minus zero", "-0.0", 0.into(), Some(Equal)),
            ("a word is no number", "many", 1.into(), None),
            ("infinity is no number", "inf", 1.into(), None),
            ("an exponent of 19 digits is not compared", "1e1000000000000000000", 1.into(), None),
            ("an exponent without digits", "1e", 1.into(), None),
            ("a point is no number", ".", 1.into(), None),
            ("a sign is no number", "-", 1.into(), None),
            ("digits of another kind", "1_000", 1.into(), None),
            ("hexadecimal digits", "0x10", 16.into(), None),
            ("nothing is no number", "", 1.into(), None),
            ("white space inside", "1 1", 1.into(), None),
        ];
        for (case, text, bound, expected) in cases {
            assert_eq!(Bound::new(*bound).compare(text.as_bytes()).ok(), *expected, "{case}");
        }
        assert_eq!(Bound::new(1.into()).compare(b"\xff"), Err(NoNumber::NotDecimal));
        assert!(!Number::from(f64::NAN).is_comparable() && Number::from(f64::INFINITY).is_comparable());
        assert_eq!(format!("{:>4}{:?}", Number::from(1_usize), Number::from(2.5_f32)), "   12.5");
    }
}
