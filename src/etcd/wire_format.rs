//! Messages of protocol buffers, read where they lie. What etcd says in its answers and over its watches is read by
//! hand: prost copies every key and value into memory of its own, also those that nobody asks for.
//!
//! What is read here is read as prost does, or refused. What nobody asks for is passed over. Groups, which etcd never
//! sent, are refused. No length that is told is trusted: memory is taken only for bytes that are there.

use super::Header;
use super::numbers::{ClusterId, RaftTerm};
use crate::change::Revision;

/// The bytes are no message of the kind that they should be.
#[derive(Debug)]
pub(super) struct Unreadable;

impl From<prost::DecodeError> for Unreadable {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

/// The fields of a message, with their numbers. It ends after what can't be read.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

#[derive(Clone, Copy)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size. Nothing that is read here has one.
    Fixed,
}

impl<'a> Field<'a> {
    #[inline]
    pub(super) fn number(self) -> Result<u64, Unreadable> {
        match self {
            Field::Number(number) => Ok(number),
            _ => Err(Unreadable),
        }
    }

    #[inline]
    pub(super) fn bytes(self) -> Result<&'a [u8], Unreadable> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(Unreadable),
        }
    }
}

/// Reads an `etcdserverpb.ResponseHeader` into what was read of it before.
pub(super) fn read_header(bytes: &[u8], header: &mut Header) -> Result<(), Unreadable> {
    const CLUSTER_ID: u32 = 1;
    const REVISION: u32 = 3;
    const RAFT_TERM: u32 = 4;
    for field in Fields(bytes) {
        match field? {
            (CLUSTER_ID, field) => header.cluster = ClusterId::new(field.number()?),
            (REVISION, field) => header.revision = Revision::new(field.number()? as i64),
            (RAFT_TERM, field) => header.term = RaftTerm::new(field.number()?),
            _ => {}
        }
    }
    Ok(())
}

impl<'a> Fields<'a> {
    #[inline]
    fn number(&mut self) -> Result<u64, Unreadable> {
        // Mostly it is small.
        if let [byte @ 0..0x80, rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
        self.long_number()
    }

    #[inline(never)]
    fn long_number(&mut self) -> Result<u64, Unreadable> {
        let mut number = 0;
        for (at, byte) in self.0.iter().take(10).enumerate() {
            if at == 9 && *byte > 1 {
                // More than 64 bits.
                return Err(Unreadable);
            }
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(number);
            }
        }
        Err(Unreadable)
    }

    #[inline]
    fn bytes(&mut self, length: usize) -> Result<&'a [u8], Unreadable> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(bytes)
    }

    #[inline]
    fn field(&mut self) -> Result<(u32, Field<'a>), Unreadable> {
        let key = u32::try_from(self.number()?).map_err(|_| Unreadable)?;
        let number = key >> 3;
        if number == 0 {
            return Err(Unreadable);
        }
        let field = match key & 7 {
            0 => Field::Number(self.number()?),
            1 => self.bytes(8).map(|_| Field::Fixed)?,
            2 => {
                let length = usize::try_from(self.number()?).map_err(|_| Unreadable)?;
                Field::Bytes(self.bytes(length)?)
            }
            5 => self.bytes(4).map(|_| Field::Fixed)?,
            _ => return Err(Unreadable),
        };
        Ok((number, field))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), Unreadable>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests;
