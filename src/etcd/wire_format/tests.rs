//! What is malformed is refused, and what is not known is passed over.

use super::*;

/// The fields of a message, as text.
fn read(bytes: &[u8]) -> Result<String, Unreadable> {
    let fields = Fields(bytes).map(|field| {
        Ok(match field? {
            (number, Field::Number(value)) => format!("{number}={value}"),
            (number, Field::Bytes(bytes)) => format!("{number}={bytes:?}"),
            (number, Field::Fixed) => format!("{number} fixed"),
        })
    });
    Ok(fields.collect::<Result<Vec<_>, Unreadable>>()?.join(", "))
}

#[test]
fn fields_are_read_as_they_are_written() {
    for (name, bytes, wanted) in [
        ("nothing", &b""[..], ""),
        ("a number", b"\x08\x05", "1=5"),
        ("a number of two bytes", b"\x08\x96\x01", "1=150"),
        ("more bytes than it needs", b"\x08\x85\x80\x80\x00", "1=5"),
        ("the largest", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "1=18446744073709551615"),
        ("bytes", b"\x12\x02ab", "2=[97, 98]"),
        ("no bytes", b"\x12\x00", "2=[]"),
        ("fixed sizes", b"\x0912345678\x151234\x18\x01", "1 fixed, 2 fixed, 3=1"),
        ("the largest field", b"\xf8\xff\xff\xff\x0f\x01", "536870911=1"),
    ] {
        assert_eq!(read(bytes).expect(name), wanted, "{name}");
    }
}

#[test]
fn what_is_malformed_is_refused() {
    for (name, bytes) in [
        ("no number", &b"\x08"[..]),
        ("a number without its end", b"\x08\x80\x80"),
        ("more than 64 bits", b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"),
        ("eleven bytes", b"\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"),
        ("no length", b"\x12"),
        ("fewer bytes than told", b"\x12\x03ab"),
        ("a length beyond all memory", b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab"),
        ("a length of 2 GiB", b"\x12\xff\xff\xff\xff\x07ab"),
        ("half of eight bytes", b"\x091234"),
        ("half of four bytes", b"\x1512"),
        ("field 0", b"\x00\x01"),
        ("a field beyond the largest", b"\x88\x80\x80\x80\x10\x01"),
        ("a group", b"\x0b\x0c"),
        ("the end of a group", b"\x0c"),
        ("a wire type that is none", b"\x0e\x01"),
        ("the other", b"\x0f\x01"),
    ] {
        assert!(read(bytes).is_err(), "{name}");
        assert!(read(&[b"\x08\x05", bytes].concat()).is_err(), "{name}, after another field");
    }
}
