//! Numbers in the values of keys. They are read from text and compared exactly, also integers with floats.

use std::cmp::Ordering;
use std::fmt;

/// A number to compare the value of a key with. It is made from any integer or float type except `u128`.
///
/// Comparison is exact: an integer is never rounded to a float, so `9007199254740993` is greater than
/// `9007199254740992.0`.
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
    Float(f64),
}

impl Number {
    /// Reads a decimal number. It may have a sign, a fraction, an exponent, and white space around it.
    /// Anything else returns `None`, infinities included.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?.trim_ascii();
        let integer = text.parse().ok().map(Kind::Integer);
        let float = || text.parse().ok().filter(|float: &f64| float.is_finite()).map(Kind::Float);
        integer.or_else(float).map(Self)
    }

    /// False for "not a number", which compares with nothing.
    pub(super) fn is_comparable(self) -> bool {
        !matches!(self.0, Kind::Float(float) if float.is_nan())
    }

    /// The exact order, or `None` if either is "not a number".
    pub(super) fn compare(self, other: Self) -> Option<Ordering> {
        match (self.0, other.0) {
            (Kind::Integer(a), Kind::Integer(b)) => Some(a.cmp(&b)),
            (Kind::Float(a), Kind::Float(b)) => a.partial_cmp(&b),
            (Kind::Integer(a), Kind::Float(b)) => integer_with_float(a, b),
            (Kind::Float(a), Kind::Integer(b)) => integer_with_float(b, a).map(Ordering::reverse),
        }
    }
}

fn integer_with_float(integer: i128, float: f64) -> Option<Ordering> {
    const BEYOND: f64 = i128::MAX as f64; // rounded up to 2^127, which is greater than any i128
    if float.is_nan() {
        None
    } else if float >= BEYOND {
        Some(Ordering::Less)
    } else if float < -BEYOND {
        Some(Ordering::Greater)
    } else {
        let whole = integer.cmp(&(float.trunc() as i128));
        0.0.partial_cmp(&float.fract()).map(|fraction| whole.then(fraction))
    }
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
        Self(Kind::Float(float.into()))
    }
}

impl From<f64> for Number {
    fn from(float: f64) -> Self {
        Self(Kind::Float(float))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Kind::Integer(integer) => integer.fmt(f),
            Kind::Float(float) => float.fmt(f),
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
            (
                "the least integer and its float",
                &i128::MIN.to_string(),
                (i128::MIN as f64).into(),
                Some(Equal),
            ),
            (
                "the greatest integer is below its float",
                &i128::MAX.to_string(),
                (i128::MAX as f64).into(),
                Some(Less),
            ),
            ("more digits than an integer has", &"9".repeat(50), i128::MAX.into(), Some(Greater)),
            ("an infinite bound", "1", f64::INFINITY.into(), Some(Less)),
            ("an exponent", "1e3", 1000.into(), Some(Equal)),
            ("a sign", "+1", 1.into(), Some(Equal)),
            ("white space around", " 1\n", 1.into(), Some(Equal)),
            ("minus zero", "-0.0", 0.into(), Some(Equal)),
            ("a word is no number", "many", 1.into(), None),
            ("infinity is no number", "inf", 1.into(), None),
            ("an overflowing exponent is no number", "1e999", 1.into(), None),
            ("nothing is no number", "", 1.into(), None),
            ("white space inside", "1 1", 1.into(), None),
            ("a bound that is not a number", "1", f64::NAN.into(), None),
        ];
        for (case, text, bound, expected) in cases {
            let found = Number::read(text.as_bytes()).and_then(|number| number.compare(*bound));
            assert_eq!(found, *expected, "{case}");
        }
        assert!(Number::read(b"\xff").is_none());
        assert!(!Number::from(f64::NAN).is_comparable() && Number::from(f64::INFINITY).is_comparable());
        assert_eq!(format!("{:>4}{:?}", Number::from(1_usize), Number::from(2.5_f32)), "   12.5");
    }
}
